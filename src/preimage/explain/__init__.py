"""What an inversion tells of its classifier: boundaries, units, counterfeits, a map of features."""
