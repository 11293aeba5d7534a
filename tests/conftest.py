"""What all tests share."""

import os
import shutil
import tempfile

import pytest
from hypothesis import settings

NEEDED_GB = 2  # of what tests write until they end, networks most of all

# How long an example takes depends on what else the machine does.
settings.register_profile("any-machine", deadline=None)
settings.load_profile("any-machine")


def pytest_configure(config):
    """Without room on the disk pytest itself fails, in hundreds of lines."""
    free = shutil.disk_usage(tempfile.gettempdir()).free / 2**30
    if free < NEEDED_GB and not hasattr(config, "workerinput"):
        where = tempfile.gettempdir()
        pytest.exit(f"{free:.1f} GB are free in {where}, and tests need {NEEDED_GB}: free some, or set TMPDIR to another folder", 2)


@pytest.fixture(scope="session", autouse=True)
def cache_of_the_tests(tmp_path_factory):
    """What tests, and the commands that they start, find out about files is kept in a folder of the tests'."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("US3L_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def uncounted(monkeypatch):
    """No lines are counted in the programs that a test starts: coverage handles signals itself, and writes files of its own."""
    for name in [name for name in os.environ if name.startswith("COVERAGE_")]:
        monkeypatch.delenv(name)
