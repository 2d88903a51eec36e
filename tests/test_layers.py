"""The direction of imports: every file imports from the rooms below its own alone, and no two files import each other
in a circle."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

PACKAGE = Path("lit_blip2")
# From the top down. What stands in one line is a floor: its rooms do not know each other.
FLOORS = [
    [""],
    ["__main__"],
    ["commands"],
    ["resolve", "harness", "captioned"],
    ["cli"],
    ["parser", "go_on"],
    ["mini.demo"],
    ["mini.forgetting", "mini.cell_probes"],
    ["mini.scene_scores"],
    ["exchange"],
    ["lit", "ablation.run", "mini.train"],
    ["inference", "memory"],
    ["loaded"],
    ["checkpoint_net"],
    ["network", "words"],
    ["objectives"],
    ["model"],
    ["ablation.report", "mini", "data"],
    ["ablation.kept", "ablation.reached"],
    ["ablation.folder", "evaluation"],
    ["ablation.schema"],
    ["ablation.spec"],
    ["arguments", "checkpoint", "distributed", "offline", "failed_start", "roll_call", "what_next", "whole_files"],
    [
        "allocator",
        "config",
        "keyed",
        "loggers",
        "nulls",
        "paths",
        "pixels",
        "refusals",
        "runs",
        "settings",
        "sources",
        "trust",
    ],
    ["given", "links", "loggers", "zeros"],
    ["complaints", "console", "contents", "reads"],
    ["signature", "stopping", "terminal"],
]


def modules() -> dict[str, Path]:
    """Dotted name below lit_blip2 -> file; the package's own name is empty."""
    files = {".".join(file.relative_to(PACKAGE).with_suffix("").parts): file for file in PACKAGE.rglob("*.py")}
    return {name.removesuffix("__init__").removesuffix("."): file for name, file in files.items()}


def imports(file: Path, known: dict[str, Path]) -> set[str]:
    """Modules of the house that a file imports, wherever in it, for types alone too."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            below = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name for name in below if name.removeprefix("lit_blip2.") in known} or {node.module}
    return {name.removeprefix("lit_blip2.") for name in found if name.startswith("lit_blip2.")} & known.keys()


HOUSE = modules()
IMPORTS = {name: imports(file, HOUSE) for name, file in HOUSE.items()}


def room_of(module: str) -> str:
    """The longest room of FLOORS that a module is in."""
    rooms = [room for floor in FLOORS for room in floor if f"{module}.".startswith(f"{room}.")]
    return max(rooms, key=len, default=module)


def test_every_module_has_a_floor():
    rooms = {room for floor in FLOORS for room in floor}
    assert {room_of(name) for name in HOUSE if name not in ("ablation", "mini")} == rooms


def test_imports_point_down():
    height = {room: place for place, floor in enumerate(FLOORS) for room in floor}
    wrong = [
        f"{name} imports {other}"
        for name, others in IMPORTS.items()
        for other in others
        if room_of(name) != room_of(other) and height[room_of(other)] <= height[room_of(name)]
    ]
    assert not wrong


def test_no_file_imports_itself_through_others():
    list(TopologicalSorter(IMPORTS).static_order())  # raises CycleError, which names the circle


def test_lightning_stays_in_its_rooms():
    allowed = (
        "cli",
        "parser",
        "go_on",
        "lit",
        "data.module",
        "data.tar_shards",
        "data.visual_genome",
        "mini.cell_probes",
        "mini.forgetting",
        "mini.scene_scores",
        "roll_call",
    )
    for name, file in HOUSE.items():
        if not f"{name}.".startswith(tuple(f"{room}." for room in allowed)):
            assert "lightning" not in {each.split(".")[0] for each in every_import(file)}, name


def test_what_a_folder_holds_is_read_offline():
    """Every call by which transformers reads a folder, or makes something of what one says, is within `offline`."""
    readers = ("from_pretrained", "for_model", "from_config")
    for name, file in HOUSE.items():
        tree = ast.parse(file.read_text())
        blocks = [node for node in ast.walk(tree) if isinstance(node, ast.With) and is_offline(node)]
        held = {id(node) for block in blocks for node in ast.walk(block)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and getattr(node.func, "attr", None) in readers:
                assert id(node) in held, f"{name}, line {node.lineno}"


def is_offline(block: ast.With) -> bool:
    """Whether it is a block of `with offline()`, or of `with _usable(...)`, which is made of one."""
    calls = [item.context_expr for item in block.items if isinstance(item.context_expr, ast.Call)]
    return any(getattr(call.func, "id", None) in ("offline", "_usable") for call in calls)


def every_import(file: Path) -> set[str]:
    nodes = list(ast.walk(ast.parse(file.read_text())))
    plain = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    return plain | {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module}
