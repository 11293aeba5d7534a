"""How a command line runs and ends, of every room: exit codes, signals, and streams that cannot take what is printed."""

from __future__ import annotations

import errno
import os
import select
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from types import FrameType

from rundir.drawing import import_matplotlib
from rundir.errors import UserError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# Files or directories that cannot be read or written. It is the user's problem only where the error names a file.
PLACES = (
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENAMETOOLONG,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.ELOOP,
    errno.EIO,
    errno.ESTALE,
    errno.EEXIST,
    errno.ENOTEMPTY,
    errno.EINVAL,
    errno.EMFILE,
)
PIPE_CODE = 128 + signal.SIGPIPE  # as of a Unix tool whose reader has gone
TERMINAL = "US3L_TERMINAL_ENCODING"  # for the program that was started again
INTERRUPTED = "interrupted; run the same command again to resume"
MOST_SHOWN = 4000  # characters of an error: some libraries put whole files into theirs


class Terminated(KeyboardInterrupt):
    """SIGTERM or SIGHUP arrived: the program ends as after Ctrl-C, but for its exit code."""

    def __init__(self, signum: int):
        super().__init__(signal.Signals(signum).name)
        self.signum = signum


def cli(
    main: Callable[[Sequence[str] | None], int | None], argv: Sequence[str] | None = None, *, interrupted: str = INTERRUPTED
) -> None:
    """Run ``main(argv)`` as a program and exit with its code.

    Exit codes: 0 or what ``main`` returns; 2 for a :class:`UserError`, a disk that is full, a place that may not be written or too
    little memory, each printed as one line on stderr; 130 for Ctrl-C, 143 for SIGTERM, 129 for SIGHUP, after ``interrupted`` on
    stderr; 141 silently where the reader of the output has gone. Other exceptions are not caught, so that their traceback is
    seen. Characters that the terminal's encoding lacks are printed as escapes; where the locale is not UTF-8, the program starts
    again in Python's UTF-8 mode, so that names of files mean the same everywhere.
    """
    _open_streams()
    _use_utf8()
    _catch_termination()
    import_matplotlib()
    try:
        code = _code(main, argv, interrupted)
        _flush()
    except BaseException as error:  # of the output itself
        code = _told(error, interrupted)
        _discard_output()
        if code is None:
            raise
    sys.exit(code)


def _code(main: Callable[[Sequence[str] | None], int | None], argv: Sequence[str] | None, interrupted: str) -> int:
    try:
        _check_working_directory()
        return main(argv) or 0
    except SystemExit as end:
        if is_interruption(end):
            return PIPE_CODE
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except (Exception, KeyboardInterrupt) as error:
        code = _told(error, interrupted)
        if code is None:
            raise
        if isinstance(error, BrokenPipeError):
            _discard_output()
        return code


def _check_working_directory() -> None:
    try:
        os.getcwd()
    except FileNotFoundError:
        raise UserError("the working directory was deleted; change to one that exists") from None


def _told(error: BaseException, interrupted: str) -> int | None:
    """Print what ``error`` means to a user, if anything; the exit code, None for our own fault."""
    if isinstance(error, BrokenPipeError) and is_interruption(error):
        return PIPE_CODE
    if isinstance(error, KeyboardInterrupt):
        print(interrupted, file=sys.stderr)
        return 128 + (error.signum if isinstance(error, Terminated) else signal.SIGINT)
    message = explained(error)
    if message:
        print(f"error: {message}", file=sys.stderr)
        return 2
    return None


def explained(error: BaseException) -> str:
    """One line that says what a user can do about ``error``; "" where it is our own fault."""
    if isinstance(error, UserError):
        return " ".join(str(error).split("\n"))[:MOST_SHOWN]
    if isinstance(error, OSError) and error.errno in FULL:
        where = f" while writing {error.filename}" if error.filename else ""
        return (
            f"{error.strerror}{where}; free some space (or raise the limit that ulimit -f shows) or choose another directory, "
            "then run the same command again: it resumes"
        )
    if isinstance(error, OSError) and error.errno in PLACES and error.filename:
        return f"{error.strerror}: {error.filename}; choose another place, or change its permissions"
    if out_of_memory(error):
        first = (str(error).strip() or "nothing more is known").splitlines()[0][:200]
        return f"not enough memory ({first}); use less of it: smaller batches, images, networks, queues or lists of images"
    return ""


def out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed: Python's or numpy's, or torch's on a CPU or a GPU."""
    named = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    system = isinstance(error, OSError) and error.errno == errno.ENOMEM
    return named or system or (isinstance(error, RuntimeError) and "t allocate memory" in str(error))


def is_interruption(error: BaseException) -> bool:
    """Whether the program was to end, and nothing has failed: Ctrl-C, a signal, or nobody reads its output any more."""
    if isinstance(error, SystemExit):
        return isinstance(error.__context__, BrokenPipeError)  # how rich ends a program whose output nobody reads
    return isinstance(error, KeyboardInterrupt) or (isinstance(error, BrokenPipeError) and _reader_has_gone())


def _reader_has_gone() -> bool:
    """Whether stdout is a pipe that nobody reads."""
    try:
        looked = select.poll()
        looked.register(sys.stdout.fileno(), 0)
        return any(event & select.POLLERR for _, event in looked.poll(0))
    except (OSError, ValueError):  # no descriptor behind it
        return False


# -- streams and signals ----------------------------------------------------------------------------------------------------------


def _open_streams() -> None:
    """Make stdin, stdout and stderr usable: what is closed is /dev/null, what an encoding lacks is printed as an escape."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free: this one
    for name in ("stdin", "stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_RDWR), "r" if name == "stdin" else "w", encoding="utf-8"))
        elif name != "stdin" and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def _use_utf8() -> None:
    """Start again with UTF-8 for the names of files, unless that is so; what is printed keeps the terminal's encoding."""
    encoding = os.environ.pop(TERMINAL, "")
    if encoding:
        for stream in (sys.stdout, sys.stderr):
            stream.reconfigure(encoding=encoding, errors="backslashreplace")  # type: ignore[union-attr]
    elif sys.getfilesystemencoding() != "utf-8":
        again = {**os.environ, "PYTHONUTF8": "1", TERMINAL: getattr(sys.stdout, "encoding", None) or "ascii"}
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], again)


def _flush() -> None:
    sys.stdout.flush()
    sys.stderr.flush()


def _discard_output() -> None:
    """Point stdout at nothing, so that the interpreter's own last flush does not fail too."""
    nothing = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nothing, sys.stdout.fileno())
    except (OSError, ValueError):  # no descriptor behind it
        pass
    finally:
        os.close(nothing)


def _catch_termination() -> None:
    """SIGTERM and SIGHUP raise :class:`Terminated`, in this process only; what ignores them (nohup) or has its own way keeps it."""
    if threading.current_thread() is not threading.main_thread():
        return
    owner = os.getpid()

    def end(signum: int, frame: FrameType | None) -> None:
        if os.getpid() != owner:  # a forked worker
            signal.signal(signum, signal.SIG_DFL)
            os.kill(os.getpid(), signum)
            return
        raise Terminated(signum)

    for signum in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(signum) is signal.SIG_DFL:
            signal.signal(signum, end)
