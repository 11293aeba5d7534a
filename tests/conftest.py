"""What all tests share."""

import pytest
from hypothesis import settings

# How long an example takes depends on what else the machine does.
settings.register_profile("any-machine", deadline=None)
settings.load_profile("any-machine")


@pytest.fixture(scope="session", autouse=True)
def cache_of_the_tests(tmp_path_factory):
    """What tests, and the commands that they start, find out about files is kept in a folder of the tests'."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("US3L_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield
