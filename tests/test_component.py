"""Components: one frozen dataclass is configuration, object and identity."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import subprocess
import sys
import types
import typing
from abc import abstractmethod
from dataclasses import field
from typing import Annotated, Any, Literal

import pytest
from annotated_types import Ge, Gt, Le, Lt
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

import moonbed.experiments  # noqa: F401  (all kinds)
from moonbed import component
from moonbed.component import (
    Component,
    Fraction,
    NonNegative,
    NonNegativeInt,
    Positive,
    PositiveFloat,
    SpecError,
    digest,
    kinds,
    members,
    nearest,
    parse_overrides,
)
from moonbed.diffusion import Objective, Sampler, Schedule
from moonbed.diffusion.objectives import Denoising
from moonbed.diffusion.samplers import DDIM, Heun, UniformTime
from moonbed.experiments.spaces import Choice, Int, Search
from moonbed.networks import Network
from moonbed.networks.mlp import MLP
from moonbed.networks.residual import Residual
from moonbed.targets import Target
from moonbed.targets.curves import TwoMoons

ALL = [cls for kind in kinds().values() for cls in members(kind).values()]
NEEDED = {Choice: {"values": (1, "a")}, Search: {"over": {"training.steps": Int(low=100, high=900)}}}
"""Class -> values of the fields whose defaults are refused."""


def plain(cls):
    """A member with its defaults."""
    return cls(**NEEDED.get(cls, {}))


class Engine(Component):
    """An abstract kind, from outside the package."""

    @abstractmethod
    def run(self): ...


class Petrol(Engine):
    power: PositiveFloat = 1.0

    def run(self): ...


class Electric(Engine):
    cells: tuple[Positive, ...] = (2, 2)
    range: NonNegative = 0.0

    def run(self): ...


class Empty(Component):
    """A kind without members."""

    @abstractmethod
    def run(self): ...


class Car(Component):
    """A concrete kind: its own member."""

    name: str
    engine: Engine = Petrol()
    spare: Engine | None = None
    train: tuple[Engine, ...] = ()
    doors: Positive = 4
    trips: NonNegativeInt = 0
    full: Fraction = 0.5
    fast: bool = False
    colour: Literal["red", "blue"] = "red"
    extras: dict[str, Any] = field(default_factory=dict)

    def check(self):
        if self.fast and self.doors > 2:
            yield "doors", "a fast car has two at most"


KINDS = {kind: component._REGISTRY.pop(kind) for kind in (Engine, Empty, Car)}


@pytest.fixture(autouse=True, scope="module")
def _registered():
    """The kinds above are there for these tests and for no others."""
    component._REGISTRY.update(KINDS)
    yield
    for kind in KINDS:
        del component._REGISTRY[kind]


@pytest.fixture
def family():
    """What a test registers is forgotten after it."""
    before = {kind: dict(known) for kind, known in component._REGISTRY.items()}
    yield
    component._REGISTRY.clear()
    component._REGISTRY.update(before)


def problems(function, *args, **kwargs):
    with pytest.raises(SpecError) as caught:
        function(*args, **kwargs)
    return dict(caught.value.problems)


# Any value of any component, from its annotations


def values(hint):
    if typing.get_origin(hint) is Annotated:
        base, *bounds = typing.get_args(hint)
        low = max((b.ge if isinstance(b, Ge) else b.gt for b in bounds if isinstance(b, Ge | Gt)), default=None)
        high = min((b.le if isinstance(b, Le) else b.lt for b in bounds if isinstance(b, Le | Lt)), default=None)
        if base is int:
            return st.integers(low + any(isinstance(b, Gt) for b in bounds), 10**6)
        return st.floats(
            low,
            10.0 if high is None else high,
            exclude_min=any(isinstance(b, Gt) for b in bounds),
            exclude_max=any(isinstance(b, Lt) for b in bounds),
            allow_subnormal=False,
        )
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return st.sampled_from(args)
    if origin in (typing.Union, types.UnionType):
        return st.one_of(map(values, args))
    if origin is tuple:
        return st.lists(values(args[0]), max_size=3).map(tuple)
    if origin is dict:
        return st.dictionaries(st.text(), values(args[1]), max_size=3)
    if isinstance(hint, type) and issubclass(hint, Component):
        ours = (__name__, "moonbed")  # and not those of other tests in this process
        known = [c for c in members(hint.kind()).values() if issubclass(c, hint) and c.__module__.startswith(ours)]
        return st.sampled_from(known).flatmap(anything)
    whatever = (
        st.none()
        | st.booleans()
        | st.integers(-(2**63), 2**64 - 1)
        | st.text()
        | st.floats(allow_nan=False, allow_infinity=False)
    )
    simple = {
        Any: whatever | st.lists(whatever, max_size=2),
        str: st.text(),
        int: st.integers(-(10**6), 10**6),
        float: st.floats(-1e6, 1e6),
        bool: st.booleans(),
        type(None): st.none(),
    }
    return simple[hint]


@st.composite
def anything(draw, cls):
    """A member with any of its fields changed; those that `check` refuses together keep their defaults."""
    given, hints, defaults = {}, typing.get_type_hints(cls, include_extras=True), _defaults(cls)
    for part in dataclasses.fields(cls):
        if defaults[part.name] is dataclasses.MISSING or draw(st.booleans()):
            given[part.name] = draw(values(hints[part.name]))
    while True:
        try:
            return cls(**NEEDED.get(cls, {}) | given)
        except SpecError as error:
            if error.problems != [*unchecked(cls, given).check()]:
                raise
            refused = {place.split(".")[0] for place, _ in error.problems}
        free = [name for name in given if defaults[name] is not dataclasses.MISSING]
        assert free, f"nothing is left to change: {refused}"
        given = {name: given[name] for name in given if name not in (refused.intersection(free) or free[:1])}


def unchecked(cls, given):
    """A member that nothing was asked of."""
    out = object.__new__(cls)
    for name, value in (_defaults(cls) | given).items():
        object.__setattr__(out, name, value)
    return out


def _defaults(cls):
    defaults = {
        f.name: f.default if f.default_factory is dataclasses.MISSING else f.default_factory()
        for f in dataclasses.fields(cls)
    }
    return defaults | NEEDED.get(cls, {})


@pytest.mark.parametrize("cls", [*ALL, Car, Petrol, Electric], ids=lambda cls: cls.__name__)
@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_round_trips(cls, data):
    one = data.draw(anything(cls))
    text = json.dumps(one.spec(), allow_nan=False)
    for other in (cls.parse(one.spec()), cls.kind().parse(text), cls.parse(one), one.replace()):
        assert other == one
        assert other.id == one.id
        assert hash(other) == hash(one)
        assert other.spec() == json.loads(text)


@pytest.mark.parametrize("cls", [*ALL, Car, Petrol, Electric], ids=lambda cls: cls.__name__)
@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_replacing_is_the_same_as_building(cls, data):
    one, other = data.draw(anything(cls)), data.draw(anything(cls))
    changed = one
    for name in [f.name for f in dataclasses.fields(cls)]:
        try:
            changed = changed.replace(**{name: json.dumps(component._plain(getattr(other, name)))})
        except SpecError:
            assume(False)  # the two halves do not go together
    assert changed == other


# Identity


def test_ids_are_stable_across_processes():
    spec = DDIM(steps=7, eta=0.3, spacing=UniformTime())
    code = (
        "from moonbed.diffusion.samplers import DDIM, UniformTime;"
        "print(DDIM(eta=0.3, spacing=UniformTime(), steps=7).id)"
    )
    for seed in ("1", "2"):
        env = {"PYTHONHASHSEED": seed, "PATH": ""}
        out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env).stdout
        assert out.strip() == spec.id


def test_an_id_that_was_published_does_not_change():
    """Stores are keyed by ids: who changes a field, a default or the digest must know that old runs are not found."""
    assert digest({"type": "X", "b": [1, 2.5], "a": None}) == "842b0b1dade3895b"
    assert Heun().spec() == {"type": "Heun", "steps": 64, "spacing": {"type": "UniformLogSNR"}}


def test_ids_do_not_depend_on_the_order_of_fields():
    spec = MLP().spec()
    assert MLP.parse(dict(reversed(spec.items()))).id == MLP().id
    assert digest(dict(reversed(spec.items()))) == digest(spec)
    assert len(MLP().id) == 16
    assert int(MLP().id, 16) >= 0


@pytest.mark.parametrize(
    ("cls", "name"),
    [pytest.param(cls, f.name, id=f"{cls.__name__}.{f.name}") for cls in ALL for f in dataclasses.fields(cls)],
)
def test_every_field_is_hashed(cls, name):
    one, other = plain(cls), plain(cls)
    object.__setattr__(other, name, "another value")
    assert one.spec()[name] != other.spec()[name] == "another value"
    assert one.id == plain(cls).id != other.id


def test_every_change_of_a_field_changes_the_id():
    car = Car(name="a")
    changes = {
        "name": "b",
        "engine": Electric(),
        "engine.power": 2.0,
        "spare": Petrol(),
        "train": (Petrol(),),
        "doors": 3,
        "trips": 1,
        "full": 0.6,
        "fast": True,
        "colour": "blue",
        "extras": {"roof": 1},
        "extras.roof": 1.5,
    }
    made = [
        car,
        *(car.replace(doors=2, **{k: v}) if k == "fast" else car.replace(**{k: v}) for k, v in changes.items()),
    ]
    assert len({c.id for c in made}) == len(made)


def test_defaults_are_written_out():
    assert Petrol().id == Petrol(power=1.0).id
    assert Petrol().spec()["power"] == 1.0
    assert Petrol(power=1).spec()["power"] == 1.0  # an int where a float is meant is that float
    assert isinstance(Petrol(power=1).power, float)


def test_equal_components_have_equal_hashes():
    assert Petrol() == Petrol()
    assert Petrol() != Petrol(power=2)
    assert Petrol() != "Petrol"
    assert len({Petrol(), Petrol(power=1), Petrol(power=2)}) == 2
    for a, b in ((1, True), (1, 1.0), (0.0, -0.0)):  # equal in Python, different in JSON
        one, other = Car(name="a", extras={"x": a}), Car(name="a", extras={"x": b})
        assert (one == other) == (one.id == other.id)


def test_frozen():
    heun = Heun()
    with pytest.raises(dataclasses.FrozenInstanceError):
        heun.steps = 3
    with pytest.raises(dataclasses.FrozenInstanceError):
        del heun.steps
    with pytest.raises(TypeError):
        Heun(3)  # keyword only
    given = {"roof": 1}
    car = Car(name="a", extras=given)
    given["roof"] = 2
    assert car.extras == {"roof": 1}


def test_a_component_prints_as_python():
    car = Car(name="a", engine=Electric(cells=(3,)), train=(Petrol(), Petrol(power=2)), extras={"x": [1, None]})
    assert eval(str(car)) == car
    assert max(map(len, str(car).splitlines())) <= 120


# Parsing


def test_parse_takes_names_json_mappings_and_objects():
    wanted = Electric(cells=(1, 2))
    assert Engine.parse('{"type": "Electric", "cells": [1, 2]}') == wanted
    assert Engine.parse({"type": "Electric", "cells": (1, 2)}) == wanted
    assert Engine.parse(wanted) is wanted
    assert Engine.parse("Petrol") == Petrol()
    assert Petrol.parse({"power": 2}) == Petrol(power=2)
    assert Car.parse({"name": "a", "spare": None, "engine": "Electric"}) == Car(name="a", engine=Electric())


@pytest.mark.parametrize(
    ("data", "place", "message"),
    [
        ("petrol", "", r"no Engine is called 'petrol'; did you mean 'Petrol'\? known: Electric, Petrol"),
        ("Steam", "", "known: Electric, Petrol"),
        ({}, "type", "say which Engine; known: Electric, Petrol"),
        ({"type": "Petrol", "powr": 1}, "powr", r"Petrol has no such field; did you mean 'power'\?"),
        ("{bad", "", "neither a Engine nor JSON"),
        ([1], "", "is no Engine"),
        (7, "", "is no Engine"),
        (None, "", "is no Engine"),
        (Heun(), "", "Heun is a Sampler, not a Engine"),
    ],
)
def test_what_cannot_be_parsed(data, place, message):
    with pytest.raises(SpecError, match=message) as caught:
        Engine.parse(data)
    assert [p for p, _ in caught.value.problems] == [place]


def test_all_errors_at_once_with_their_places():
    found = problems(
        Car.parse,
        {
            "doors": 0,
            "dors": 2,
            "engine": {"type": "Electric", "cells": [1, 0, "x"], "rnge": 3},
            "spare": {"type": "Petrol", "power": -1},
            "train": [{"type": "Petrol"}, {"type": "Petrl"}],
            "colour": "green",
            "full": 2,
        },
    )
    inside = {"engine.cells.1", "engine.cells.2", "engine.rnge", "spare.power", "train.1"}
    assert set(found) == inside | {"name", "doors", "dors", "colour", "full"}
    assert "did you mean 'Petrol'" in found["train.1"]
    assert "did you mean 'range'" in found["engine.rnge"]
    assert "given 0" in found["doors"]
    assert "greater than 0" in found["doors"]
    assert "needs this field" in found["name"]
    assert "'red' or 'blue'" in found["colour"]


def test_the_message_lists_every_problem():
    with pytest.raises(SpecError, match=r"steps: .*; spacing: no Spacing is called 'Uniform'"):
        Heun(steps=0, spacing="Uniform")


def test_problems_come_in_one_order():
    """Not in that of a set of names, which changes from process to process."""
    places = [p for p, _ in _caught(Car.parse, {"zzz": 1, "doors": 0, "full": 2, "trips": -1, "colour": 0})]
    assert places == ["zzz", "name", "doors", "full", "trips", "colour"]


def _caught(function, *args):
    with pytest.raises(SpecError) as caught:
        function(*args)
    return caught.value.problems


def test_what_types_cannot_say_is_checked_too():
    assert problems(Car, name="a", fast=True) == {"doors": "a fast car has two at most"}
    assert problems(Car.parse, {"name": "a", "fast": True}) == {"doors": "a fast car has two at most"}
    outer = problems(Car(name="a").replace, fast=True)
    assert outer == {"doors": "a fast car has two at most"}


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, "nan", "Infinity"])
def test_nan_and_infinity_are_refused(bad):
    assert set(problems(Petrol, power=bad)) == {"power"}
    assert set(problems(Electric, range=bad)) == {"range"}
    assert set(problems(Petrol().replace, power=bad)) == {"power"}
    assert set(problems(Engine.parse, {"type": "Petrol", "power": bad})) == {"power"}


@pytest.mark.parametrize(
    "bad",
    [math.nan, {"deep": [math.inf]}, {1, 2}, object(), b"x", {1: 2}],
    ids=lambda v: re.sub(" at 0x.*", "", repr(v)),
)
def test_what_is_no_json_is_refused_where_anything_goes(bad):
    assert set(problems(Car, name="a", extras={"x": bad})) == {"extras"}


@pytest.mark.parametrize("bad", [True, False, 1.5, "many", None, [1]])
def test_a_count_is_a_number(bad):
    assert set(problems(Heun, steps=bad)) == {"steps"}


@pytest.mark.parametrize("name", ["type", "source", "id", "spec", "check", "parse", "replace", "kind"])
def test_names_that_a_component_needs_itself_are_no_fields(name, family):
    with pytest.raises(SpecError, match=f"Clash.{name}"):
        type("Clash", (Engine,), {"__annotations__": {name: int}, name: 1, "run": lambda self: None})
    assert "Clash" not in members(Engine)


# Overrides


def test_replace_by_dotted_name():
    car = Car(name="a", engine=Electric())
    changed = car.replace(**{"engine.cells": (5,), "doors": 2})
    assert changed == Car(name="a", engine=Electric(cells=(5,)), doors=2)
    assert car == Car(name="a", engine=Electric())  # untouched
    assert car.replace(**{"spare": "Electric", "spare.range": 3}).spare == Electric(range=3)
    assert car.replace(**{"spare.range": 3, "spare": Electric()}).spare == Electric(range=3)
    assert car.replace(engine="Petrol").engine == Petrol()
    assert car.replace(**{"extras.roof.open": True}, extras={"roof": {}}).extras == {"roof": {"open": True}}


def test_replace_names_unknown_places_and_bad_values_at_once():
    found = problems(
        Car(name="a").replace,
        **{"dors": 2, "engine.powr": 1, "spare.range": 1, "doors.x": 1, "full": 7, "trips": "x", "train.0": "Petrol"},
    )
    assert set(found) == {"dors", "engine.powr", "spare", "doors", "full", "trips", "train"}
    assert "did you mean 'doors'" in found["dors"]
    assert "did you mean 'power'" in found["engine.powr"]
    assert "None" in found["spare"]


def test_replace_names_a_wrong_member_once():
    with pytest.raises(SpecError) as caught:
        Car(name="a").replace(**{"engine": "Petrl", "engine.power": 2})
    assert [place for place, _ in caught.value.problems] == ["engine"]


@pytest.mark.parametrize(
    ("place", "text", "value"),
    [
        ("doors", "2", 2),
        ("doors", "2e0", 2),
        ("full", "1", 1.0),
        ("full", ".25", 0.25),
        ("doors", "1", 1),
        ("colour", "blue", "blue"),
        ("colour", '"blue"', "blue"),
        ("spare", "None", None),
        ("spare", "null", None),
        ("spare", "Petrol", Petrol()),
        ("spare", '{"type": "Petrol", "power": 3}', Petrol(power=3)),
        ("train", '["Petrol", {"type": "Electric"}]', (Petrol(), Electric())),
        ("extras", '{"a": [1, "x"]}', {"a": [1, "x"]}),
        ("extras.a", "true", True),
        ("extras.a", "True", True),
        ("extras.a", "1.5", 1.5),
        ("extras.a", "trailing", "trailing"),
        ("name", "1", "1"),
        ("name", "true", "true"),
        ("name", "None", "None"),
        ("name", "[1]", "[1]"),
        ("name", '"quoted"', "quoted"),
    ],
)
def test_strings_from_a_command_line_arrive_typed(place, text, value):
    car = Car(name="a").replace(**{place: text})
    for part in place.split("."):
        car = car[part] if isinstance(car, dict) else getattr(car, part)
    assert car == value
    assert type(car) is type(value)


@pytest.mark.parametrize(("text", "value"), [("true", True), ("False", False), ("1", True)])
def test_flags_from_a_command_line(text, value):
    assert Car(name="a", doors=2).replace(fast=text).fast is value


@pytest.mark.parametrize(("place", "text"), [("doors", "2.5"), ("doors", "true"), ("fast", "perhaps"), ("full", "NaN")])
def test_strings_of_another_type_are_refused(place, text):
    assert set(problems(Car(name="a").replace, **{place: text})) == {place}


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        ([], [{}]),
        (["a.b=1"], [{"a.b": "1"}]),
        (["a=1,2", "c=x"], [{"a": "1", "c": "x"}, {"a": "2", "c": "x"}]),
        (["a=1,2", "b=3,4"], [{"a": i, "b": j} for i in "12" for j in "34"]),
        (["a= 1 , 2 "], [{"a": "1"}, {"a": "2"}]),
        (["a=[1,2],[3]"], [{"a": "[1,2]"}, {"a": "[3]"}]),
        (['a={"x": [1, {"y": 2}], "z": 3},None'], [{"a": '{"x": [1, {"y": 2}], "z": 3}'}, {"a": "None"}]),
        (['a="x,y",z'], [{"a": '"x,y"'}, {"a": "z"}]),
        (['a="[",2'], [{"a": '"["'}, {"a": "2"}]),
        (['a={"k": "],"},2'], [{"a": '{"k": "],"}'}, {"a": "2"}]),
        (["a=f(1,2),3"], [{"a": "f(1,2)"}, {"a": "3"}]),
        (["a=b=c"], [{"a": "b=c"}]),
    ],
)
def test_sweeps(words, wanted):
    assert parse_overrides(words) == wanted


@pytest.mark.parametrize("word", ["a", "=1", "a=", "a=1,,2", "a=1,", "", "a= ,1"])
def test_words_that_are_no_override(word):
    assert problems(parse_overrides, ["b=1", word]) == {word: "write name=value, or name=value,value to sweep"}


def test_a_name_given_twice_is_refused():
    with pytest.raises(SpecError, match=r"a\.b: given twice"):
        parse_overrides(["a.b=1", "c=2", "a.b=3"])


@settings(max_examples=100, deadline=None)
@given(st.lists(st.lists(st.integers(-(2**63), 2**64 - 1) | st.text() | st.none(), max_size=3), min_size=1, max_size=4))
def test_json_lists_survive_a_sweep(lists):
    word = "extras.a=" + ",".join(json.dumps(x) for x in lists)
    swept = [Car(name="a").replace(**given).extras["a"] for given in parse_overrides([word])]
    assert swept == lists


def test_nearest():
    assert nearest("heun", ["Heun", "Euler"]) == "did you mean 'Heun'? known: Euler, Heun"
    assert nearest("zzz", ["Heun"]) == "known: Heun"
    assert nearest("x", []) == "known: none"


# Plug-ins


PLUGIN = """
from moonbed.diffusion import Schedule


class Mine(Schedule):
    slope: float = {slope}

    def alpha(self, t):
        return 1 - t / 2

    def sigma(self, t):
        return 0.1 + self.slope * t
"""


@pytest.fixture
def load(tmp_path, monkeypatch, family):
    """Write and import a plug-in, each under a module name of its own or under one that is given."""

    def load(text, name="mine_plugin"):
        path = tmp_path / f"{name}.py"
        path.write_text(text)
        module = types.ModuleType(name)
        module.__file__ = str(path)
        monkeypatch.setitem(sys.modules, name, module)
        exec(compile(text, str(path), "exec"), module.__dict__)
        return module

    return load


def test_our_own_classes_carry_no_source():
    for cls in ALL:
        if cls.__module__.startswith("moonbed."):
            assert "source" not in plain(cls).spec(), cls


def test_a_plugin_carries_a_digest_of_its_source(load):
    one = load(PLUGIN.format(slope=1)).Mine()
    spec, first = one.spec(), one.id
    assert len(spec["source"]) == 16
    assert Schedule.parse(spec) == one
    assert Schedule.parse({"type": "Mine"}) == one  # who writes by hand need not know the digest
    edited = load(PLUGIN.format(slope=1) + "# edited\n").Mine()
    assert edited.spec()["source"] != spec["source"]
    assert edited.id != first
    assert "other source code" in problems(Schedule.parse, spec)["source"]
    assert "other source code" in problems(Schedule.parse, {"type": "Cosine", "source": "0123456789abcdef"})["source"]


def test_a_plugin_inside_is_hashed_too(load):
    from moonbed.experiments import Training

    first = Training(schedule=load(PLUGIN.format(slope=1)).Mine(), steps=1)
    second = Training(schedule=load(PLUGIN.format(slope=1) + "# edited\n").Mine(), steps=1)
    assert first.id != second.id
    assert set(problems(Training.parse, first.spec())) == {"schedule.source"}


def test_the_digest_is_of_the_code_that_runs(load, tmp_path):
    """Editing the file of a loaded class does not change what the class is."""
    cls = load(PLUGIN.format(slope=1)).Mine
    before = cls().spec()
    (tmp_path / "mine_plugin.py").write_text(PLUGIN.format(slope=2))
    assert cls().spec() == before
    assert Schedule.parse(before) == cls()


def test_a_class_without_source_has_no_id(family, monkeypatch):
    monkeypatch.setitem(sys.modules, "nowhere", types.ModuleType("nowhere"))
    space = {"Schedule": Schedule, "__name__": "nowhere"}
    exec(PLUGIN.split("\n\n\n")[1].format(slope=1), space)
    with pytest.raises(SpecError, match="define it in a file"):
        _ = space["Mine"]().id


def test_redefinition(load):
    first = load(PLUGIN.format(slope=1)).Mine
    second = load(PLUGIN.format(slope=2)).Mine  # the same place: a notebook cell or a file that runs again
    assert first is not second
    assert Schedule.parse("Mine") == second()
    with pytest.raises(SpecError, match="Schedule 'Mine' exists already, in mine_plugin"):
        load(PLUGIN.format(slope=1), "another_plugin")
    assert members(Schedule)["Mine"] is second
    with pytest.raises(SpecError, match="'Cosine' exists already"):
        load(PLUGIN.format(slope=1).replace("Mine", "Cosine"))


# Kinds and members


def test_kinds_and_members():
    assert kinds()["Engine"] is Engine
    assert members(Engine) == {"Electric": Electric, "Petrol": Petrol}
    assert Petrol.kind() is Engine
    assert Car.kind() is Car
    assert {"Target", "Network", "Schedule", "Prediction", "Sampler", "Objective", "Metric"} <= set(kinds())
    assert list(members(Sampler)) == sorted(members(Sampler))
    assert {"MLP": MLP, "Residual": Residual}.items() <= members(Network).items()
    assert members(Target)["TwoMoons"] is TwoMoons


def test_a_kind_without_members():
    assert members(Empty) == {}
    assert problems(Empty.parse, "Anything") == {"": "no Empty is called 'Anything'; known: none"}
    assert problems(Empty.parse, {}) == {"type": "say which Empty; known: none"}


def test_a_concrete_kind_is_its_own_member():
    assert members(Car) == {"Car": Car}
    assert Car.parse({"name": "a"}) == Car(name="a")
    assert Car.parse({"type": "Car", "name": "a"}) == Car(name="a")


def test_a_plugin_below_a_concrete_member_does_not_hide_it(load):
    stored = Denoising().spec()
    text = "from moonbed.diffusion.objectives import Denoising\n\n\nclass Mine(Denoising):\n    extra: float = 1.0\n"
    module = load(text)
    assert Objective.parse(stored) == Denoising()
    assert Objective.parse("Mine") == module.Mine()
    assert Denoising().replace(**{"weight": "P2"}).weight.k == 1.0


def test_abstract_classes_are_no_members():
    assert "SteppingSampler" not in members(Sampler)
    assert "Curve" not in members(Target)


@pytest.mark.parametrize("cls", ALL, ids=lambda cls: cls.__name__)
def test_every_member_can_be_built_and_says_what_it_is(cls):
    plain(cls)
    assert cls.__doc__
    assert not cls.__doc__.startswith(f"{cls.__name__}("), "the docstring is the one that dataclasses make up"


def test_a_field_that_cannot_be_validated_is_an_error_of_the_author(load):
    with pytest.raises(TypeError, match=r"Mine\.odd: .*cannot be validated"):
        load(PLUGIN.format(slope=1).replace("slope: float = 1", "slope: float = 1\n    odd: object() = 1")).Mine()


def test_a_change_inside_of_what_has_no_type_says_so():
    from moonbed.experiments import PRESETS

    with pytest.raises(SpecError, match="sampler: say which Sampler"):
        PRESETS["ema"].replace(**{"sampler": {"eta": 1}, "sampler.steps": 3})
