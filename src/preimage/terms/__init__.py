"""Loss terms: pure functions of a whole batch's :class:`~preimage.types.Sample`.

Each gives a finite scalar, lower is better. `paper` holds the published four, `prior` what ties
images to the classifier's training data, `repulsion` what keeps the images of a class apart,
`sureness` how sure of them the classifier is to be. A new term is one function with the ``@term``
decorator.
"""

from preimage.terms import paper, prior, repulsion, sureness
from preimage.terms.registry import Term, find, names, reads_layers, term

__all__ = [
    "Term",
    "find",
    "names",
    "paper",
    "prior",
    "reads_layers",
    "repulsion",
    "sureness",
    "term",
]
