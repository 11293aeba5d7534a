"""How a program ends: exit codes, one line on stderr, signals, and streams that cannot take what is printed."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from rundir.cli import explained
from rundir.errors import UserError
from tests.program import exit_code

ROOT = Path(__file__).resolve().parents[2]


def program(body: str, **options) -> subprocess.Popen:
    """A process whose ``main`` has this body."""
    lines = "\n".join(f"    {line}" for line in body.splitlines())
    code = f"import os, sys, time, signal\nfrom rundir.cli import cli\ndef main(argv):\n{lines}\ncli(main)"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **options.pop("env", {})}
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options
    return subprocess.Popen([sys.executable, "-c", code], env=environment, **streams)


def ended(body: str, **options) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of :func:`program`."""
    process = program(body, **options)
    out, err = process.communicate(timeout=300)
    return process.returncode, (out or b"").decode(errors="replace"), (err or b"").decode(errors="replace")


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (UserError("data.root is missing; set it"), "error: data.root is missing; set it"),
        (UserError("two\nlines"), "error: two lines"),
        (OSError(errno.ENOSPC, "No space left on device", "/x/y"), "while writing /x/y; free some space"),
        (OSError(errno.EFBIG, "File too large"), "ulimit -f"),
        (PermissionError(errno.EACCES, "Permission denied", "/x/y"), "Permission denied: /x/y; choose another place"),
        (OSError(errno.ENAMETOOLONG, "File name too long", "n" * 300), "File name too long"),
        (NotADirectoryError(errno.ENOTDIR, "Not a directory", "/x/y"), "/x/y"),
        (MemoryError(), "not enough memory"),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you"), "not enough memory"),
    ],
)
def test_what_a_user_can_change_is_one_line_and_code_2(error, words, capsys):
    def main(argv):
        raise error

    assert exit_code(main, []) == 2
    said = capsys.readouterr().err
    assert words in said and said.count("\n") == 1 and said.startswith("error: ")


@pytest.mark.parametrize(
    "error",
    [
        KeyError("x"),
        FileNotFoundError(errno.ENOENT, "No such file", "/x"),
        RuntimeError("shape"),
        PermissionError(errno.EPERM, "of no file"),
        ValueError("nan"),
    ],
)
def test_our_own_faults_keep_their_traceback(error):
    assert explained(error) == ""
    code, _, said = ended(f"raise {type(error).__name__}({', '.join(map(repr, error.args))})")
    assert code == 1 and "Traceback" in said


def test_codes_of_main_and_of_argparse_pass(capsys):
    assert exit_code(lambda argv: None, []) == 0
    assert exit_code(lambda argv: 1, []) == 1
    assert exit_code(lambda argv: sys.exit(2), []) == 2
    assert exit_code(lambda argv: sys.exit(), []) == 0
    assert exit_code(lambda argv: sys.exit("why"), []) == 1
    assert capsys.readouterr().err == "why\n"


def test_interruptions(capsys):
    def main(argv):
        raise KeyboardInterrupt

    assert exit_code(main, []) == 130
    assert exit_code(main, [], interrupted="stopped here") == 130
    assert capsys.readouterr().err == "interrupted; run the same command again to resume\nstopped here\n"


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_to_end_runs_what_cleans_up(signum, uncounted):
    body = "try:\n    print('ready', flush=True)\n    time.sleep(60)\nfinally:\n    print('cleaned', flush=True)"
    process = program(body, preexec_fn=lambda: signal.signal(signum, signal.SIG_DFL))  # nohup has it ignored, which is inherited
    assert process.stdout.readline() == b"ready\n"
    process.send_signal(signum)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 128 + signum and b"cleaned" in out and b"interrupted" in err and b"Traceback" not in err


def test_a_forked_worker_dies_of_sigterm_in_silence():
    body = (
        "child = os.fork()\nif child == 0:\n    time.sleep(60)\ntime.sleep(0.2)\nos.kill(child, signal.SIGTERM)\n"
        "print(os.WTERMSIG(os.waitpid(child, 0)[1]))"
    )
    assert ended(body) == (0, f"{int(signal.SIGTERM)}\n", "")


def test_nohup_is_heeded():
    process = program(
        "print(signal.getsignal(signal.SIGHUP) == signal.SIG_IGN)", preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN)
    )
    assert process.communicate(timeout=300)[0] == b"True\n"


@pytest.mark.parametrize(
    "body",
    [
        "for i in range(100000):\n    print('a line of the output', i)",
        "print('short')",
        "import rich.console\nfor i in range(1000):\n    rich.console.Console().print('a line')",
        "import argparse\nargparse.ArgumentParser().parse_args(['--help'])",
    ],
)
def test_a_reader_that_has_gone_ends_it_quietly(body):
    """As ``program | head -0``: no word on stderr, and the exit code of a tool that SIGPIPE ends."""
    read, write = os.pipe()
    os.close(read)
    code, _, said = ended("time.sleep(0.1)\n" + body, stdout=write)
    os.close(write)
    assert said == "" and (code == 141 or "argparse" in body)  # which passes over it itself


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_output_to_a_full_disk_is_one_line():
    with open("/dev/full", "w") as full:
        code, _, said = ended("print('x')", stdout=full)
    assert code == 2 and "No space left" in said and said.count("\n") == 1


@pytest.mark.parametrize("env", [{"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, {"PYTHONIOENCODING": "ascii"}])
def test_characters_that_the_terminal_lacks_are_escaped(env):
    body = (
        "import rich.console\nprint('Gr\\xf6\\xdfe \\u2192 \\xe9')\nrich.console.Console().print('\\xb1')\n"
        "raise OSError(28, '\\xe9', '\\xf6')"
    )
    code, out, said = ended(body, env=env)
    assert code == 2 and "Gr\\xf6\\xdfe \\u2192 \\xe9" in out and "\\xb1" in out and "\\xe9 while writing \\xf6" in said


@pytest.mark.parametrize("env", [{}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}])
def test_names_of_files_are_utf8_in_any_locale(env, tmp_path):
    (tmp_path / "\xe9t\xe9").write_text("x")
    body = (
        f"print(ascii(os.listdir({str(tmp_path)!r})), sys.getfilesystemencoding(), "
        "sorted(k for k in os.environ if 'US3L_TERMINAL' in k))"
    )
    assert ended(body, env=env) == (0, "['\\xe9t\\xe9'] utf-8 []\n", "")


def test_a_locale_that_cannot_be_left_is_no_endless_loop():
    code = "from rundir.cli import cli\ncli(lambda argv: print('ran'))"
    done = subprocess.run(
        [sys.executable, "-X", "utf8=0", "-c", code],
        capture_output=True,
        timeout=300,
        env={**os.environ, "PYTHONPATH": str(ROOT), "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0"},
    )
    assert (done.returncode, done.stdout) == (0, b"ran\n")


@pytest.mark.parametrize("closed", [(0,), (1,), (2,), (0, 1, 2)])
def test_closed_streams_do_not_mix_with_files(closed, tmp_path):
    """The first file opened would take a closed descriptor's number, and what is printed would land in it."""
    body = (
        f"with open({str(tmp_path / 'file')!r}, 'w') as file:\n    file.write('content')\n    print('printed')\n"
        "    print('told', file=sys.stderr)\n    os.system('echo shell; echo shell >&2')\nsys.stdin.read()"
    )
    code, _, _ = ended(body, stdin=subprocess.DEVNULL, preexec_fn=lambda: [os.close(number) for number in closed])
    assert code == 0 and (tmp_path / "file").read_text() == "content"


def test_a_deleted_working_directory_is_one_line(tmp_path):
    folder = tmp_path / "gone"
    folder.mkdir()
    process = program("print(1)", cwd=folder, preexec_fn=folder.rmdir)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 2 and b"working directory was deleted" in err and err.count(b"\n") == 1 and not out
