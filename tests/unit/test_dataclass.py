"""The quick dataclass does what the standard library's does."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from collections.abc import Callable
from typing import Any

import pytest

from remote_launch.dataclass import dataclass

Make = Callable[..., Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Quick:
    """A class with everything that ours have."""

    name: str
    port: int = 22
    tags: dict[str, str] = dataclasses.field(default_factory=dict)
    secret: str | None = dataclasses.field(default=None, repr=False)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Standard:
    """The same by the standard library."""

    name: str
    port: int = 22
    tags: dict[str, str] = dataclasses.field(default_factory=dict)
    secret: str | None = dataclasses.field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class QuickPlace:
    """By position."""

    name: str
    port: int = 22


@dataclasses.dataclass(frozen=True, slots=True)
class StandardPlace:
    """By position."""

    name: str
    port: int = 22


@dataclass(slots=True, kw_only=True)
class QuickCount:
    """Not frozen."""

    count: int = 0


@dataclasses.dataclass(slots=True, kw_only=True)
class StandardCount:
    """Not frozen."""

    count: int = 0


@pytest.mark.parametrize("made", [Quick, Standard])
class TestBoth:
    def test_fields_defaults_and_what_is_shown(self, made: Make) -> None:
        one = made(name="a", secret="s")
        assert (one.name, one.port, one.tags, one.secret) == ("a", 22, {}, "s")
        assert repr(one) == f"{made.__name__}(name='a', port=22, tags={{}})"
        assert one.tags is not made(name="b").tags
        assert [field.name for field in dataclasses.fields(made)] == ["name", "port", "tags", "secret"]

    def test_equal_by_its_values_and_to_no_other_class(self, made: Make) -> None:
        assert made(name="a") == made(name="a")
        assert made(name="a") != made(name="a", port=23)
        assert Quick(name="a") != Standard(name="a")

    @pytest.mark.parametrize(
        ("args", "given"), [((), {}), ((), {"name": "a", "prot": 1}), (("a",), {}), (("a",), {"name": "a"})]
    )
    def test_refuses_arguments_that_do_not_fit(
        self, made: Make, args: tuple[str, ...], given: dict[str, Any]
    ) -> None:
        with pytest.raises(TypeError):
            made(*args, **given)

    def test_replace_asdict_and_copies(self, made: Make) -> None:
        one = made(name="a", tags={"k": "v"})
        assert dataclasses.replace(one, port=1) == made(name="a", port=1, tags={"k": "v"})
        assert dataclasses.asdict(one) == {"name": "a", "port": 22, "tags": {"k": "v"}, "secret": None}
        assert copy.copy(one) == copy.deepcopy(one) == pickle.loads(pickle.dumps(one)) == one
        assert copy.deepcopy(one).tags is not one.tags

    def test_is_frozen_and_takes_no_other_attribute(self, made: Make) -> None:
        one = made(name="a")
        with pytest.raises(dataclasses.FrozenInstanceError):
            one.name = "b"
        with pytest.raises(dataclasses.FrozenInstanceError):
            del one.name
        with pytest.raises((AttributeError, TypeError)):
            one.other = 1
        assert not hasattr(one, "__dict__")


@pytest.mark.parametrize("made", [QuickPlace, StandardPlace])
class TestByPosition:
    def test_values_by_position_and_by_name(self, made: Make) -> None:
        assert made("a", 23) == made("a", port=23) == made(port=23, name="a")
        assert len({made("a"), made("a", 22), made("b")}) == 2

    @pytest.mark.parametrize(("args", "given"), [(("a", 1, 2), {}), (("a",), {"name": "b"})])
    def test_refuses_too_many(self, made: Make, args: tuple[object, ...], given: dict[str, Any]) -> None:
        with pytest.raises(TypeError):
            made(*args, **given)


@pytest.mark.parametrize("made", [QuickCount, StandardCount])
def test_what_is_not_frozen_changes_and_has_no_hash(made: Make) -> None:
    one = made()
    one.count += 1
    assert one == made(count=1)
    with pytest.raises(TypeError):
        hash(one)


def test_methods_of_the_class_itself_stay() -> None:
    @dataclass(frozen=True, slots=True)
    class Shy:
        """Tells nothing."""

        word: str

        def __repr__(self) -> str:
            return "Shy"

    assert repr(Shy("x")) == "Shy"


def test_what_it_would_leave_out_is_refused() -> None:
    with pytest.raises(TypeError, match="__post_init__"):

        @dataclass(frozen=True, slots=True)
        class Checked:
            number: int

            def __post_init__(self) -> None: ...
