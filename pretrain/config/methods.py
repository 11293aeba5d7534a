"""Parts of the method that are one file each: losses, teachers, width rules and regularizers, found by name.

A part that comes with the project is a file of its folder in ``pretrain/objective/``, named as the file is; one of the user's own
is ``FILE.py:NAME``. Each is a function, or a class, whose options are its keyword-only arguments with defaults. Options that are at
their defaults are left out of a config, so an option that is added later renames no run.

A file of the user's own is part of the experiment: a config names it as ``FILE.py:NAME@DIGEST``, with a digest of its bytes.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import importlib
import importlib.util
import inspect
import re
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from pretrain.config.signatures import Shape, fault_of, options_of
from rundir.errors import UserError, suggestion
from rundir.fields import CONSTRAINT, Choice, Options, value_of
from rundir.typed import check_values, typed

OBJECTIVE = Path(__file__).resolve().parents[1] / "objective"
DIGEST = 12  # hex digits of a file's SHA-256
OWN = re.compile(rf"(?P<file>.+\.py):(?P<name>[A-Za-z_]\w*)(?:@(?P<digest>[0-9a-f]{{{DIGEST}}}))?", re.S)


@dataclass(frozen=True)
class Part:
    """A part of the method: its key and that of its options in the config, its folder, and what its functions or classes look like.

    ``special`` are names without a file.
    """

    key: str
    options: str
    folder: str
    shape: Shape
    special: tuple[str, ...] = ()

    @functools.cached_property
    def names(self) -> tuple[str, ...]:
        """The names that come with the project."""
        return (*sorted(path.stem for path in (OBJECTIVE / self.folder).glob("*.py") if path.stem != "__init__"), *self.special)


LOSS = ("pretrain.objective.losses.module", "LossModule")
BASE_LOSS = Part(
    "objective.base_loss",
    "objective.base_options",
    "base_losses",
    Shape("base loss", ("student", "target"), extends=LOSS, made_with=("setting",), sets="training"),
)
DISTILL_LOSS = Part(
    "objective.distill_loss",
    "objective.distill_options",
    "distill_losses",
    Shape(
        "distillation loss",
        ("student", "target", "widest", "wider"),
        some=True,
        extends=LOSS,
        made_with=("setting",),
        sets="training",
    ),
    special=("none",),
)
TEACHER = Part(
    "objective.teacher",
    "objective.teacher_options",
    "teachers",
    Shape("teacher", extends=("pretrain.objective.teaching", "Guide"), made_with=("setting",), sets="training"),
)
WIDTH_RULE = Part("widths.sampling", "widths.options", "width_rules", Shape("width rule", ("widths", "draw", "progress")))
REGULARIZER = Part(
    "regularizer.kind",
    "regularizer.options",
    "regularizers",
    Shape(
        "regularizer", extends=("pretrain.objective.regularization", "Regularizer"), made_with=("cfg", "model"), sets="parameters"
    ),
    special=("none",),
)
PARTS = (BASE_LOSS, DISTILL_LOSS, TEACHER, WIDTH_RULE, REGULARIZER)


@dataclass(frozen=True)
class Method(Choice):
    """A name of ``allowed``, or ``FILE.py:NAME`` of the user's own."""

    what: str = ""

    def fault(self, value: object) -> str:
        """What is wrong with ``value``, to follow ``name=value``; "" if nothing is."""
        if value in self.allowed or OWN.fullmatch(str(value)):
            return ""
        if ".py" in str(value):
            return f"names no function or class; set FILE.py:NAME for a {self.what} of your own"
        return self._not_known(value, f", or FILE.py:NAME for a {self.what} of your own")


def method(part: Part, default: str) -> Any:
    """A field that names a part of the method."""
    allowed = (default, *(name for name in part.names if name != default))
    return dataclasses.field(default=default, metadata={CONSTRAINT: Method(allowed, part.shape.what)})


def chosen(part: Part, cfg: object) -> str:
    """What a config names as that part."""
    return value_of(cfg, part.key)


def is_own(value: str) -> bool:
    """Whether a name is that of the user's own file."""
    return OWN.fullmatch(value) is not None


def stamped(part: Part, value: str) -> str:
    """``value`` with the digest of its file, where it names a file of the user's own and has none yet; the path made absolute.

    Raises:
        UserError: there is no such file, or it is no such part of the method.
    """
    own = OWN.fullmatch(value)
    if own is None or own["digest"]:
        return value
    path = Path(own["file"]).expanduser()
    named = f"{path.resolve()}:{own['name']}@{_digest(part, value, path)}"
    find(part, named)
    return named


@functools.cache
def find(part: Part, value: str) -> Callable:
    """The function or class that ``value`` names, stamped where it names a file.

    Raises:
        UserError: a file of the user's own is missing, has changed since the config was made, cannot be imported, or holds no such
            part of the method.
    """
    own = OWN.fullmatch(value)
    if own is None:
        return _named(_module(part, value), value)
    path = Path(own["file"])
    digest = _digest(part, value, path)
    if own["digest"] != digest:
        raise UserError(
            f"{part.key}={value}: {path.name} has changed since (its digest is {digest} now); put it back, or set "
            f"{part.key}={path}:{own['name']} for another experiment"
        )
    module = _imported(part, path, digest)
    found = vars(module).get(own["name"])
    if found is None or not callable(found):
        its = [
            name for name, value in vars(module).items() if getattr(value, "__module__", "") == module.__name__ and callable(value)
        ]
        raise UserError(
            f"{part.key}={path}:{own['name']}: {path.name} has no function or class {own['name']}; "
            f"{suggestion(own['name'], its, otherwise='it has ' + (', '.join(its) or 'none at all'))}"
        )
    fault = fault_of(part.shape, found)
    if fault:
        raise UserError(f"{part.key}={path}:{own['name']}: {fault}")
    return found


def make(part: Part, value: str, options: Mapping[str, Any], *arguments: Any) -> Any:
    """The part of the method that ``value`` names, with its options: a class is made with ``arguments``, a function is as it is.

    Raises as :func:`find` does, and :class:`UserError` where a class of the user's own cannot be made.
    """
    found = find(part, value)
    if not inspect.isclass(found):
        return functools.partial(found, **options) if options else found
    if not is_own(value):
        return found(*arguments, **options)
    try:
        made = found(*arguments, **options)
    except Exception as error:
        raise failure(part, value, error, " when it is made") from error
    if part.shape.sets not in vars(made):
        raise UserError(
            f"{part.key}={value}: its __init__ does not call that of {part.shape.extends[1]}; let it begin with "
            f"super().__init__({'cfg, model' if part is REGULARIZER else ''})"
        )
    return made


def failure(part: Part, value: str, error: BaseException, when: str = "") -> UserError:
    """An error in a part of the user's own as one line: what it is, and in which line of the file."""
    lines = _lines_of(OWN.fullmatch(value)["file"], error)
    where = f" (line {lines[-1]} of {Path(OWN.fullmatch(value)['file']).name})" if lines else ""
    said = " ".join(str(error).split())
    return UserError(f"{part.key}={value} fails{when}: {type(error).__name__}{': ' if said else ''}{said}{where}; correct it")


def failure_of(cfg: object, error: BaseException) -> UserError | None:
    """The same for the part of ``cfg`` whose file ``error`` came through; None where there is none, or for a UserError."""
    if not isinstance(error, Exception) or isinstance(error, UserError | MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return None
    for part in PARTS:
        own = OWN.fullmatch(chosen(part, cfg))
        if own and _lines_of(own["file"], error):
            return failure(part, chosen(part, cfg), error)
    return None


def own_parts(cfg: object) -> list[str]:
    """What a config names that is the user's own."""
    return [chosen(part, cfg) for part in PARTS if is_own(chosen(part, cfg))]


def _lines_of(file: str, error: BaseException) -> list[int | None]:
    return [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]


def settle(cfg: object) -> None:
    """Give ``cfg`` the digests of files of the user's own, and its options the types of the arguments, defaults left out.

    Raises:
        UserError: a file is not there or holds no such part, or an option is unknown or has a value that it cannot have.
    """
    for part in PARTS:
        value, options = chosen(part, cfg), value_of(cfg, part.options)
        if Method(part.names, part.shape.what).fault(value) or Options().fault(options):
            continue  # said by the check of single values
        section, name = part.key.split(".")
        fresh = stamped(part, value)
        setattr(value_of(cfg, section), name, fresh)
        if options and not (is_own(value) and fresh == value):  # those of an earlier run, whose file may be gone, are settled
            setattr(value_of(cfg, section), part.options.split(".")[1], _settled(part, fresh, options))


def check(cfg: object) -> None:
    """Run the checks of a config that the files of its parts have as ``check(cfg)``; of files of the user's own those that this
    process has loaded, since a config of an earlier run, whose file may be another by now, was checked when it was made.

    Raises:
        UserError: one of them does, or the user's own fails otherwise.
    """
    for part in PARTS:
        value = chosen(part, cfg)
        own = OWN.fullmatch(value)
        module = (
            None
            if value in part.special
            else sys.modules.get(_module_name(Path(own["file"]), own["digest"]))
            if own
            else _module(part, value)
        )
        of_file = vars(module).get("check") if module else None
        if of_file is None:
            continue
        try:
            of_file(cfg)
        except Exception as error:
            if own and not isinstance(error, UserError):
                raise failure(part, value, error, " in check(cfg)") from error
            raise


def parts_provenance(cfg: object) -> dict[str, Any]:
    """What a run records of its parts: which guidelines they satisfy, and the files of the user's own with the SHA-256 of each."""
    base, distill = (said_of(part, chosen(part, cfg), "DISTANCE") == "relative" for part in (BASE_LOSS, DISTILL_LOSS))
    momentum = bool(said_of(TEACHER, chosen(TEACHER, cfg), "MOMENTUM"))
    satisfied = "+".join(name for name, holds in (("G1", base), ("G2", distill), ("G3", momentum)) if holds) or "none"
    own = {part.key: OWN.fullmatch(chosen(part, cfg)) for part in PARTS if is_own(chosen(part, cfg))}
    files = {
        key: {"file": match["file"], "name": match["name"], "sha256": hashlib.sha256(Path(match["file"]).read_bytes()).hexdigest()}
        for key, match in own.items()
    }
    return {"guidelines": satisfied} | ({"own_files": files} if files else {})


def said_of(part: Part, value: str, name: str) -> Any:
    """What the file of a part says of it in a constant ``name``; None where it says nothing."""
    return None if value in part.special else vars(sys.modules[find(part, value).__module__]).get(name)


def _settled(part: Part, value: str, options: dict) -> dict:
    if value in part.special:
        raise UserError(f"{part.options}: {part.key}={value} has no options; leave {part.options} out")
    kind = options_of(find(part, value))
    if not dataclasses.fields(kind):
        raise UserError(f"{part.options}: {part.key}={value} has no options; leave {part.options} out")
    typed_options = typed(kind, options, f"{part.options}.")
    check_values(typed_options, f"{part.options}.")
    default = kind()
    return {
        field.name: given
        for field in dataclasses.fields(kind)
        if (given := getattr(typed_options, field.name)) != getattr(default, field.name)
    }


def _digest(part: Part, value: str, path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()[:DIGEST]
    except OSError as error:
        raise UserError(
            f"{part.key}={value}: {path.resolve()} cannot be read ({error.strerror or error}); set the path of a "
            "Python file and the name of a function or class in it, FILE.py:NAME"
        ) from None


def _module(part: Part, name: str) -> ModuleType:
    return importlib.import_module(f"pretrain.objective.{part.folder}.{name}")


def _named(module: ModuleType, name: str) -> Callable:
    """What a module defines under its own name: a function, or a class in camel case."""
    names = (name, "".join(word.capitalize() for word in name.split("_")))
    return next(found for key, found in vars(module).items() if key in names and found.__module__ == module.__name__)


def _module_name(path: Path, digest: str) -> str:
    return f"own_method_{path.stem}_{digest}"


def _imported(part: Part, path: Path, digest: str) -> ModuleType:
    """The user's file as a module, imported once for each digest."""
    name = _module_name(path, digest)
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise UserError(
            f"{part.key}: {path} cannot be imported: {type(error).__name__}: {' '.join(str(error).split())}; "
            f"run python {path.name} to see where"
        ) from None
    return module
