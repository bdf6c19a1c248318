"""Run folders and files: nothing torn, nothing lost, nothing foreign touched."""

from __future__ import annotations

import errno
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from preimage import files
from preimage.environment import environment, hardware_name
from preimage.errors import DiskError, PreimageError
from preimage.files import read_json, read_sealed, write_atomic, write_json, write_sealed
from preimage.run import RunFolder, check_output, others_in

CONFIG = {"model": {"model": "mnist"}, "config": {"seed": 0, "betas": (0.5, 0.99), "limit": None}}


def names(folder: Path) -> set[str]:
    return {file.name for file in folder.iterdir()} - {".lock"}


@pytest.fixture
def full_disk(monkeypatch):
    """Calls that make every write fail from then on, or work again."""
    sync = os.fsync

    def fail(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    def switch(full: bool) -> None:
        monkeypatch.setattr(files.os, "fsync", fail if full else sync)

    return switch


# ---- files


def test_failed_write_keeps_the_old_content_and_no_leftover(tmp_path, full_disk):
    file = tmp_path / "a.json"
    write_json(file, {"v": 1})
    full_disk(True)
    with pytest.raises(DiskError, match=r"room on the disk.*a\.json.*free some space"):
        write_json(file, {"v": 2})
    assert read_json(file) == {"v": 1}
    assert names(tmp_path) == {"a.json"}


def test_interrupted_write_leaves_no_leftover(tmp_path, monkeypatch):
    def interrupt(descriptor: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(files.os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_atomic(tmp_path / "a", b"1")
    assert names(tmp_path) == set()


def test_place_that_cannot_be_written_is_told_in_one_sentence(tmp_path):
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder").mkdir()
    below_a_file = tmp_path / "file" / "run"
    for act in (
        lambda: write_atomic(below_a_file / "a", b"1"),
        lambda: write_atomic(tmp_path / "folder", b"1"),
        lambda: RunFolder.create(below_a_file, "invert", {}),
        lambda: RunFolder.create("/proc/preimage-run", "invert", {}),
    ):
        with pytest.raises(DiskError, match=r"^expected .* found: .*; ") as caught:
            act()
        assert "\n" not in str(caught.value)
    assert (tmp_path / "file").read_text() == "x"
    assert names(tmp_path) == {"file", "folder"}


def test_file_size_limit_is_told_and_loses_nothing(tmp_path):
    resource = pytest.importorskip("resource", reason="needs Unix resource limits")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    with RunFolder.create(tmp_path, "invert", {}) as folder:
        folder.log(step=1)
        folder.save_state({"step": 1})
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
        try:
            with pytest.raises(DiskError, match="expected room for the file"):
                folder.save_state({"step": 2, "more": list(range(10_000))})
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert folder.load_state() == {"step": 1}
        assert folder.metrics_log() == [{"step": 1}]
        folder.save_state({"step": 2})
        assert folder.load_state() == {"step": 2}


def test_sealed_file_is_read_whole_or_not_at_all(tmp_path):
    file = tmp_path / "state"
    assert read_sealed(file) is None
    write_sealed(file, b"some content")
    whole = file.read_bytes()
    assert read_sealed(file) == b"some content"
    altered = bytearray(whole)
    altered[-1] ^= 1
    for damaged in (b"", whole[:10], whole[:-1], whole + b"x", bytes(altered)):
        file.write_bytes(damaged)
        assert read_sealed(file) is None


def test_json_keeps_text_and_undecodable_paths_and_stays_valid(tmp_path):
    value = {"name": "Grüße 字", "path": os.fsdecode(b"caf\xe9"), "nan": math.nan, "t": (1, 2)}
    write_json(tmp_path / "a.json", value)
    assert read_json(tmp_path / "a.json") == {**value, "nan": None, "t": [1, 2]}
    assert "字".encode() in (tmp_path / "a.json").read_bytes()


def test_file_mode_follows_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        write_atomic(tmp_path / "a", b"")
    finally:
        os.umask(before)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o640


# ---- who may have a folder


def test_equal_settings_go_on_and_others_are_named(tmp_path):
    with RunFolder.create(tmp_path, "invert", CONFIG) as folder:
        folder.log(step=1, loss=math.inf, share=0.1)
    with RunFolder.create(tmp_path, "invert", CONFIG) as folder:
        assert folder.metrics_log() == [{"step": 1, "loss": None, "share": 0.1}]
    other = {**CONFIG, "config": {**CONFIG["config"], "seed": 7}}
    with pytest.raises(PreimageError, match=r"seed 0 instead of 7.*--out.*--overwrite"):
        RunFolder.create(tmp_path, "invert", other)
    with pytest.raises(PreimageError, match="run of `preimage train`, found one of `preimage inv"):
        RunFolder.create(tmp_path, "train", CONFIG)
    assert RunFolder.open(tmp_path).metrics_log()


def test_overwrite_removes_the_run_and_nothing_else(tmp_path):
    with RunFolder.create(tmp_path, "invert", CONFIG) as folder:
        folder.log(step=1)
        for step in (1, 2):
            folder.save_state({"step": step})
        folder.write("generator.safetensors", b"weights")
        folder.finish({"accuracy": 1.0})
    (tmp_path / "generator.notes.txt").write_text("mine")
    (tmp_path / "gallery.backup").mkdir()
    with RunFolder.create(tmp_path, "train", {"seed": 1}, overwrite=True) as folder:
        assert not folder.finished and folder.load_state() is None and not folder.metrics_log()
    assert names(tmp_path) == {
        "config.json",
        "environment.json",
        "generator.notes.txt",
        "gallery.backup",
    }
    assert RunFolder.open(tmp_path, "train").settings["config"] == {"seed": 1}


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("name", ["thesis.tex", "config.json", "environment.json"])
def test_foreign_folder_is_left_as_it_is(tmp_path, name, overwrite):
    (tmp_path / name).write_text('{"model_type": "theirs"}')
    with pytest.raises(PreimageError, match=f"found .*{name}"):
        RunFolder.create(tmp_path, "invert", CONFIG, overwrite=overwrite)
    assert [file.name for file in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == '{"model_type": "theirs"}'


def test_manifest_cannot_lead_out_of_the_folder(tmp_path):
    (tmp_path / "precious").write_text("x")
    RunFolder.create(tmp_path / "run", "invert", {}).close()
    write_json(tmp_path / "run" / ".written.json", ["../precious", str(tmp_path / "precious"), 3])
    RunFolder.create(tmp_path / "run", "invert", {}, overwrite=True).close()
    assert (tmp_path / "precious").exists()


@pytest.mark.parametrize("name", ["../a", "b/a", "state.pt", "config.json", ".lock", ""])
def test_job_cannot_write_the_folders_own_files(tmp_path, name):
    with (
        RunFolder.create(tmp_path / "run", "invert", {}) as folder,
        pytest.raises(ValueError, match="file name"),
    ):
        folder.write(name, b"")


def test_other_version_other_kind_and_no_run_are_told(tmp_path):
    with pytest.raises(PreimageError, match="expected a run folder"):
        RunFolder.open(tmp_path)
    write_json(tmp_path / "config.json", {"format": 999, "kind": "invert", "config": {}})
    for act in (RunFolder.open, lambda path: RunFolder.create(path, "invert", {})):
        with pytest.raises(PreimageError, match="of version 1, found version 999"):
            act(tmp_path)
    (tmp_path / "config.json").write_text('{"format": 1, "ki')
    with pytest.raises(PreimageError, match="damaged"):
        RunFolder.open(tmp_path)
    write_json(tmp_path / "config.json", {"format": 1, "kind": "invert", "config": {}})
    with pytest.raises(PreimageError, match="expected a run of `preimage train`"):
        RunFolder.open(tmp_path, "train")
    with pytest.raises(PreimageError, match="expected a finished run"):
        RunFolder.open(tmp_path).metrics()


def test_second_process_is_told_and_gets_its_turn(tmp_path):
    program = (
        "import sys\nfrom preimage.errors import PreimageError\n"
        "from preimage.run import RunFolder\n"
        "try:\n    RunFolder.create(sys.argv[1], 'invert', {}).close(); print('mine')\n"
        "except PreimageError as error:\n    print(error)\n"
    )

    def other_process() -> str:
        command = [sys.executable, "-c", program, str(tmp_path)]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    with RunFolder.create(tmp_path, "invert", {}):
        assert "another process at work in it" in other_process()
    assert other_process() == "mine\n"


# ---- states and logs


def test_state_comes_back_with_its_tensors(tmp_path):
    with RunFolder.create(tmp_path, "invert", {}) as folder:
        assert folder.load_state() is None
        folder.save_state({"step": 3, "w": torch.arange(4.0), "checks": [{"a": None}]})
        state = folder.load_state()
    assert state is not None and state["step"] == 3 and state["checks"] == [{"a": None}]
    assert torch.equal(state["w"], torch.arange(4.0))


def test_damaged_state_falls_back_and_never_pushes_out_the_good_one(tmp_path, full_disk):
    with RunFolder.create(tmp_path, "invert", {}) as folder:
        folder.save_state({"step": 1})
        folder.save_state({"step": 2})
        content = (tmp_path / "state.pt").read_bytes()
        (tmp_path / "state.pt").write_bytes(content[: len(content) // 2])
        assert folder.load_state() == {"step": 1}
        full_disk(True)
        with pytest.raises(DiskError):
            folder.save_state({"step": 2})
        full_disk(False)
        assert folder.load_state() == {"step": 1}
        folder.save_state({"step": 2})
        assert folder.load_state() == {"step": 2}
        for name in ("state.pt", "state.prev.pt"):
            (tmp_path / name).write_bytes(b"torn")
        with pytest.raises(PreimageError, match=r"damaged; start anew with --overwrite"):
            folder.load_state()


def test_failed_save_leaves_the_last_state(tmp_path, full_disk):
    with RunFolder.create(tmp_path, "invert", {}) as folder:
        folder.save_state({"step": 1})
        full_disk(True)
        with pytest.raises(DiskError):
            folder.save_state({"step": 2})
        assert folder.load_state() == {"step": 1}


def test_rewind_drops_later_and_torn_lines_and_changes_no_byte_of_the_rest(tmp_path):
    with RunFolder.create(tmp_path, "invert", {}) as folder:
        for step in range(1, 6):
            folder.log(step=step, loss=1 / (step + 2), name="字")
        log = tmp_path / "metrics.jsonl"
        kept = b"".join(log.read_bytes().splitlines(keepends=True)[:3])
        log.write_bytes(log.read_bytes() + b'{"step": 3, "los')
        assert [line["step"] for line in folder.metrics_log()] == [1, 2, 3, 4, 5]
        folder.rewind(3)
        assert log.read_bytes() == kept
        folder.rewind(0)
        assert folder.metrics_log() == []


# imports torch once, and forks the runs that are to be killed
KILLER = """
import os, random, signal, sys, time
import torch
from preimage.run import RunFolder

def run(path):
    with RunFolder.create(path, "invert", {"seed": 0}) as folder:
        state = folder.load_state()
        step = state["step"] if state else 0
        total = state["total"] if state else 0.0
        folder.rewind(step)
        while step < 60:
            step += 1
            total += 1 / step
            folder.log(step=step, total=total)
            if step % 4 == 0:
                folder.save_state({"step": step, "total": total})
        folder.write("generator.safetensors", repr(total).encode() * 1000)
        folder.finish({"total": total})

def attempt(path, seconds):
    child = os.fork()
    if child == 0:
        code = 1
        try:
            run(path)
            code = 0
        finally:
            os._exit(code)
    if seconds is not None:
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

unbroken, broken = sys.argv[1:]
start = time.perf_counter()
assert attempt(unbroken, None) == 0
length = time.perf_counter() - start
rng = random.Random(0)
codes = [attempt(broken, rng.uniform(0, 0.2) * length) for _ in range(12)]
assert set(codes) <= {0, -signal.SIGKILL}, codes
assert attempt(broken, None) == 0
print(codes.count(-signal.SIGKILL))
"""


def contents(folder: Path) -> dict[str, object]:
    """What the run left, apart from what may differ: the environment and the state's framing."""
    assert names(folder) == {
        *("config.json", "environment.json", "metrics.jsonl", "metrics.json", ".written.json"),
        *("state.pt", "state.prev.pt", "generator.safetensors"),
    }
    kept = ("config.json", "metrics.jsonl", "metrics.json", "generator.safetensors")
    run = RunFolder.open(folder)
    return {"state": run.load_state(), **{name: (folder / name).read_bytes() for name in kept}}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs Unix processes")
def test_killed_run_ends_with_the_files_of_an_unbroken_one(tmp_path):
    """Killed (SIGKILL) over and over at random moments."""
    unbroken, broken = tmp_path / "unbroken", tmp_path / "broken"
    done = subprocess.run(
        [sys.executable, "-c", KILLER, unbroken, broken], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 3, "too few kills to tell anything"
    assert contents(broken) == contents(unbroken)


class Killed(BaseException):
    """Stands for the kill: nothing of the code under test may catch it and tidy up."""


def test_kill_at_every_single_step_of_writing_loses_nothing(tmp_path, monkeypatch):
    """The run is cut before each call that reaches the disk, one after the other, and resumed."""
    monkeypatch.setattr("preimage.run.environment", dict)  # asks git, which takes its time
    unbroken = tmp_path / "unbroken"
    small_run(unbroken)
    expected = contents(unbroken)
    calls = Countdown(monkeypatch)
    for cut in range(10_000):
        folder = tmp_path / f"cut-{cut}"
        calls.left = cut
        try:
            small_run(folder)
        except Killed:
            calls.left = None
            small_run(folder)
            assert contents(folder) == expected, f"cut before call {cut}"
        else:
            break
    assert cut > 30, "the calls were not intercepted"


class Countdown:
    """Cuts the process off before the n-th call that changes the disk, and from then on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.left: int | None = None
        for owner, name in ((os, "fsync"), (Path, "replace"), (Path, "chmod"), (Path, "unlink")):
            monkeypatch.setattr(owner, name, self.counted(getattr(owner, name)))

    def counted(self, call):
        def wrapped(*arguments, **options):
            if self.left is not None:
                if self.left <= 0:
                    raise Killed
                self.left -= 1
            return call(*arguments, **options)

        return wrapped


def small_run(path: Path) -> None:
    with RunFolder.create(path, "invert", {"seed": 0}) as folder:
        state = folder.load_state()
        step = state["step"] if state else 0
        folder.rewind(step)
        while step < 4:
            step += 1
            folder.log(step=step, half=step / 2)
            if step % 2 == 0:
                folder.save_state({"step": step})
        folder.write("generator.safetensors", b"weights")
        folder.finish({"steps": step})


def made(folder: Path) -> Path:
    with RunFolder.create(folder, "invert", CONFIG) as run:
        run.log(step=1, seconds=0.5)
        run.write("page.html", b"page")
        run.finish({"steps": 1})
    return folder


def test_no_output_replaces_what_a_run_keeps(tmp_path):
    folder = made(tmp_path / "run")
    for name in ("page.html", "config.json", "metrics.json", "metrics.jsonl"):
        before = (folder / name).read_bytes()
        with pytest.raises(PreimageError, match=rf"{name}' is one that the run .* keeps; write"):
            check_output(folder / name)
        assert (folder / name).read_bytes() == before
    (tmp_path / "page.html").write_bytes(b"mine")
    check_output(folder / "mine.png")
    check_output(tmp_path / "page.html")


def test_what_is_not_the_runs_own_is_known(tmp_path):
    folder = made(tmp_path / "run")
    assert others_in(folder) == [] == others_in(tmp_path)
    (folder / "mine.txt").write_bytes(b"mine")
    (folder / "below").mkdir()
    assert others_in(folder) == ["below", "mine.txt"]


@pytest.mark.parametrize("content", ["{}", "3", '[{"step": 1}]', '["page.html", 3, "../page"]'])
def test_a_list_of_files_that_is_none_leads_nowhere(tmp_path, content):
    folder = made(tmp_path / "run")
    (folder / ".written.json").write_text(content)
    (tmp_path / "page").write_bytes(b"mine")
    with RunFolder.create(folder, "invert", CONFIG, overwrite=True):
        assert (tmp_path / "page").is_file() and not (folder / "metrics.json").exists()


@pytest.mark.parametrize("line", ["[]", "3", "{}", '{"step": "1"}', '{"st'])
def test_log_ends_at_a_line_that_no_run_wrote(tmp_path, line):
    folder = made(tmp_path / "run")
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(f'{line}\n{{"step": 2, "seconds": 1.0}}\n')
    run = RunFolder.open(folder)
    assert run.metrics_log() == [{"step": 1, "seconds": 0.5}]
    with RunFolder.create(folder, "invert", CONFIG) as again:
        again.rewind(5)
        assert again.metrics_log() == [{"step": 1, "seconds": 0.5}]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("metrics.json", "[]", "damaged metrics.json"),
        ("metrics.json", "{", "missing or damaged"),
        ("config.json", '{"format": 1, "kind": "invert", "config": []}', "no run wrote"),
    ],
)
def test_damaged_folder_is_one_sentence(tmp_path, name, content, said):
    folder = made(tmp_path / "run")
    (folder / name).write_text(content)
    with pytest.raises(PreimageError, match=said):
        RunFolder.open(folder).metrics()


# ---- environment


def test_environment_says_what_made_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/somewhere/bin/preimage", "invert", "two words", "--seed=1"])
    found = environment()
    assert found["command"] == "preimage invert 'two words' --seed=1"
    assert {"python", "preimage", "torch", "lightning-fabric", "datasets"} <= set(found["versions"])
    assert found["versions"]["torch"].partition("+")[0] == torch.__version__.partition("+")[0]
    assert hardware_name() == found["hardware"]
    assert found["memory_gb"] is None or found["memory_gb"] > 0.1
    assert json.loads(json.dumps(found)) == found
    if found["commit"] is not None:
        assert len(found["commit"].removesuffix("-dirty")) == 12


@pytest.mark.parametrize(("cores", "named"), [({3}, "1 core, "), ({0, 1}, "2 cores, ")])
def test_hardware_counts_the_cores_that_the_process_may_use(monkeypatch, cores, named):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: cores, raising=False)
    assert hardware_name().startswith(named)


def test_run_and_its_parts_import_no_torch():
    program = (
        "import sys, preimage.run, preimage.files, preimage.environment, preimage.records\n"
        "preimage.environment.environment()\nassert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
