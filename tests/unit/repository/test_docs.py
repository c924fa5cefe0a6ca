# SPDX-License-Identifier: Apache-2.0
"""What the documents name exists: files, links, commands, flags, code names and settings.

Every Markdown file of the project is read, whichever there are. A check yields what is wrong in a
document; below the checks each is seen to find mistakes. What belongs to others and cannot be
looked up here is listed first.
"""

import argparse
import ast
import contextlib
import dataclasses
import functools
import io
import itertools
import json
import os
import re
import shlex
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from hygen_vllm.command_line import setting
from hygen_vllm.config import CONFIG_KEY, HyGenConfig
from hygen_vllm.lab.cli import build_parser
from hygen_vllm.lab.policies import NAMES
from hygen_vllm.lab.workloads import sources
from hygen_vllm.ray_serving.app_config import AppConfig
from hygen_vllm.slo import Slo

ROOT = Path(__file__).parents[3]
DOCS = ROOT / "docs"
MOST_README_LINES = 120

VLLM_FLAGS = frozenset(
    {
        "--additional-config",
        "--disable-log-stats",
        "--dtype",
        "--enforce-eager",
        "--kv-offloading-size",
        "--load-format",
        "--max-model-len",
        "--max-num-batched-tokens",
        "--max-num-seqs",
        "--model",
        "--num-gpu-blocks-override",
        "--scheduler-cls",
        "--scheduling-policy",
        "--skip-tokenizer-init",
    }
)
"""Flags of vLLM's engine; tests/contract/test_documented_vllm_flags.py looks for them there."""

FOREIGN_NAMES = {"prefill_schedule_interval": "a setting of vLLM that this package does not use"}
"""Names that no file of the project mentions, and whose they are."""

FOREIGN_PATHS = {"data/profiling/compute": "a folder of microsoft/vidur"}
"""Paths in other repositories."""

DATA_FILES = frozenset(
    path.as_posix() for path in (sources.AZURE, sources.MOONCAKE, sources.ARXIV, sources.SHAREGPT)
)
"""Paths in the folder that HYGEN_DATA names."""

SUFFIXES = (
    *(".cff", ".csv", ".gz", ".html", ".json", ".jsonl", ".log", ".md", ".patch", ".png", ".py"),
    *(".sh", ".toml", ".txt", ".yaml"),
)
"""A word with one of these is a path, and so is every word with a slash."""


# Reading


@dataclass(frozen=True)
class Block:
    """A block of code; an indented one has no language."""

    text: str
    language: str = ""


@dataclass(frozen=True)
class Command:
    """A command of ours or of vLLM. A text names it by its beginning, a block has all of it."""

    program: str
    words: tuple[str, ...]
    is_inline: bool = False

    @property
    def text(self) -> str:
        return " ".join((self.program, *self.words))

    @property
    def is_whole(self) -> bool:
        return not self.is_inline and not any(map(is_placeholder, self.words))


@dataclass(frozen=True)
class Document:
    """A Markdown file: its blocks of code, and its text without them."""

    path: Path
    root: Path
    text: str
    blocks: tuple[Block, ...]

    @property
    def name(self) -> str:
        return self.path.relative_to(self.root).as_posix()

    @functools.cached_property
    def codes(self) -> list[str]:
        """The inline code."""
        return [" ".join(code.split()) for _, code in INLINE_CODE.findall(self.text)]

    @functools.cached_property
    def commands(self) -> list[Command]:
        blocks = [command for block in self.blocks for command in commands_in(block.text)]
        inline = [command for code in self.codes for command in commands_in(code)]
        return blocks + [dataclasses.replace(command, is_inline=True) for command in inline]

    @property
    def everything(self) -> str:
        return "\n".join((self.text, *(block.text for block in self.blocks)))


COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
FENCED = re.compile(
    r"^( *)(```+|~~~+) *(?P<language>[\w-]*)[^\n]*\n(?P<code>.*?)^\1\2 *$", re.MULTILINE | re.DOTALL
)
INDENTED = re.compile(r"(?:(?<=\n\n)|\A)(?P<code>(?: {4}.*\n+)+)(?P<language>)")
INLINE_CODE = re.compile(r"(?<!`)(`+)(?!`)((?:(?!\n\n).)+?)(?<!`)\1(?!`)", re.DOTALL)


def read_document(path: Path, root: Path = ROOT) -> Document:
    blocks: list[Block] = []

    def keep(match: re.Match[str]) -> str:
        code, language = textwrap.dedent(match["code"]).rstrip("\n"), match["language"]
        parts = [code] if language else re.split(r"\n{2,}(?=\S)", code)
        blocks.extend(Block(part, language) for part in parts)
        return "\n"

    text = COMMENT.sub("", path.read_text(encoding="utf-8"))
    text = INDENTED.sub(keep, FENCED.sub(keep, text) + "\n")
    return Document(path, root, text, tuple(blocks))


def find_documents(root: Path) -> list[Path]:
    """Return the Markdown files under a folder, but those in folders that programs make."""
    found = []
    for folder, folders, files in os.walk(root):
        folders[:] = sorted(each for each in folders if not is_made(each))
        found += [Path(folder, name) for name in sorted(files) if name.endswith(".md")]
    return found


def is_made(folder: str) -> bool:
    made = ("build", "dist", "demo-results", "__pycache__")  # as in .gitignore
    return folder.startswith(".") or folder in made or folder.endswith(".egg-info")


def commands_in(text: str) -> list[Command]:
    lines = [line.strip() for line in text.replace("\\\n", " ").split("\n")]
    return [command for line in lines if (command := command_of(line)) is not None]


def command_of(line: str) -> Command | None:
    """Return the command that a line is; variables set before it are left out."""
    match = re.match(
        r"(?:\$ )?(?:[A-Z_]+=\S+ +)*(?:\.venv/bin/)?"
        r"(?P<program>hygen|python|make|vllm|[\w./-]+\.py)(?= |$)",
        line,
    )
    if match is None:
        return None
    words = shlex.split(line[match.end() :], comments=True)
    if match["program"] == "python" and words and words[0].endswith(".py"):
        return Command(words[0], tuple(words[1:]))
    return Command(match["program"], tuple(words))


def is_placeholder(word: str) -> bool:
    """Whether a reader fills in something here: MODEL, NAME=VALUE, [flags], ..."""
    value = word.rpartition("=")[2]
    is_bracket = word.startswith("[") or (word.endswith("]") and "[" not in word)
    return is_bracket or "..." in word or value.isupper()


# The project's names


@dataclass(frozen=True)
class Names:
    """The names in Python files: of modules and what they bind, of classes and what they have."""

    modules: dict[str, set[str]] = dataclasses.field(default_factory=dict)
    classes: dict[str, set[str]] = dataclasses.field(default_factory=dict)
    bases: dict[str, set[str]] = dataclasses.field(default_factory=dict)
    known: set[str] = dataclasses.field(default_factory=set)
    """All that are defined or used."""
    texts: set[str] = dataclasses.field(default_factory=set)

    def members(self, name: str) -> set[str]:
        """Return what a class has, with what it has from classes of the project."""
        return self.classes[name].union(
            *(self.members(base) for base in self.bases[name] if base in self.bases)
        )

    def is_closed(self, name: str) -> bool:
        """Whether a class has nothing from classes of others."""
        return all(
            base == "BaseModel" or (base in self.bases and self.is_closed(base))
            for base in self.bases[name]
        )

    def add_class(self, node: ast.ClassDef) -> None:
        attributes = [each for each in ast.walk(node) if isinstance(each, ast.Attribute)]
        stored = {each.attr for each in attributes if isinstance(each.ctx, ast.Store)}
        self.classes.setdefault(node.name, set()).update(bound_in(node.body), stored)
        bases = {next(identifiers(base), "") for base in node.bases}
        self.bases.setdefault(node.name, set()).update(
            "" if base == node.name else base for base in bases
        )

    def has(self, dotted: Sequence[str]) -> bool:
        """Whether a name is a module's, or what a module or a class in it has."""
        lengths = range(len(dotted), 0, -1)
        heads = (".".join(dotted[:length]) for length in lengths)
        module = next((head for head in heads if head in self.modules), None)
        if module is None:
            return False
        first, *more = (*dotted[module.count(".") + 1 :], "")
        if not first or not more[:-1]:
            return not first or first in self.modules[module]
        return first in self.modules[module] and self.is_member(first, more[0])

    def is_member(self, name: str, member: str) -> bool:
        return name not in self.classes or not self.is_closed(name) or member in self.members(name)


def identifiers(node: ast.AST) -> Iterator[str]:
    """Yield the names that a node itself brings up."""
    match node:
        case ast.ClassDef(name=name) | ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
            yield name
        case ast.Name(id=name) | ast.Attribute(attr=name) | ast.arg(arg=name):
            yield name
        case ast.keyword(arg=str(name)):
            yield name
        case ast.alias(name=name):
            yield from name.split(".")


def bound_in(body: Iterable[ast.stmt]) -> set[str]:
    """Return the names that statements bind."""
    bound: set[str] = set()
    for statement in body:
        match statement:
            case ast.ClassDef() | ast.FunctionDef() | ast.AsyncFunctionDef():
                bound.add(statement.name)
            case ast.Import() | ast.ImportFrom():
                bound.update(alias.asname or alias.name for alias in statement.names)
            case ast.If() | ast.Try():
                bound |= bound_in([*statement.body, *statement.orelse])
            case ast.Assign() | ast.AnnAssign():
                names = [each for each in ast.walk(statement) if isinstance(each, ast.Name)]
                bound.update(each.id for each in names if isinstance(each.ctx, ast.Store))
    return bound


def texts_in(tree: ast.AST) -> set[str]:
    constants = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)]
    return {value for value in constants if isinstance(value, str)}


def calls_in(tree: ast.AST) -> list[ast.Call]:
    return [node for node in ast.walk(tree) if isinstance(node, ast.Call)]


@functools.cache
def project_names() -> Names:
    """Return the names in the package, its tools and experiments; of tests those of the files."""
    names = Names()
    folders = [ROOT / folder for folder in ("hygen_vllm", "tools", "experiments")]
    files = [path for folder in folders for path in folder.rglob("*.py")]
    for path in (*files, ROOT / "setup.py"):
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        tree = ast.parse(path.read_text(encoding="utf-8"))
        names.modules[module.removesuffix(".__init__")] = bound_in(tree.body)
        names.texts.update(texts_in(tree))
        for node in ast.walk(tree):
            names.known.update(identifiers(node))
            if isinstance(node, ast.ClassDef):
                names.add_class(node)
    for path in (*files, *(ROOT / "tests").rglob("*.py")):
        names.known.update((path.stem, path.parent.name))
    for path in (ROOT / "Makefile", ROOT / "pyproject.toml", ROOT / "setup.py"):
        names.known.update(re.findall(r"[\w-]+", path.read_text(encoding="utf-8")))
    names.known.update(shipped_profiles(), experiment_folders())
    return names


def shipped_profiles() -> set[str]:
    folders = [path.parent for path in ROOT.glob("profiles/*/*/profile.json")]
    return {f"{folder.parent.name}-{folder.name}" for folder in folders}


def experiment_folders() -> set[str]:
    return {path.parent.name for path in ROOT.glob("experiments/*/README.md")}


# The checks: what is wrong in a document


def wrong_links(document: Document) -> Iterator[str]:
    """Links lead to files and headings that are there, or are addresses."""
    text = INLINE_CODE.sub("", document.text)
    patterns = (
        r"\]\(\s*<?([^)\s>]*)[^)]*\)",  # [text](target "title"), and images
        r"^ {0,3}\[[^\]]+\]:\s*<?([^\s>]+)",  # [text]: target
        r"<(\w+:[^\s>]*)>",
        r"<(?:a|img)\b[^>]*?\b(?:href|src)=[\"']([^\"']*)",
    )
    for pattern in patterns:
        for target in re.findall(pattern, text, re.MULTILINE):
            if reason := target_error(document, target):
                yield f"link {target}: {reason}"


def target_error(document: Document, target: str) -> str | None:
    parts = urlsplit(target)
    if parts.scheme or parts.netloc:
        is_host = re.fullmatch(r"[\w-]+(\.[\w-]+)+(:\d+)?", parts.netloc) is not None
        return None if is_host and parts.scheme in ("http", "https") else "not an http address"
    path = document.path.parent / parts.path if parts.path else document.path
    if not path.resolve().is_relative_to(document.root.resolve()):
        return "outside of the project"
    if not path.exists():
        return "no such file"
    if parts.fragment and (path.suffix != ".md" or parts.fragment not in anchors_of(path)):
        return "no such heading"
    return None


def anchors_of(path: Path) -> set[str]:
    """Return the anchors of a document: its headings as GitHub spells them, and those it sets."""
    text = read_document(path).text
    anchors = set(re.findall(r"<a\b[^>]*?\b(?:id|name)=[\"']([^\"']+)", text))
    for heading in re.findall(r"^#{1,6} +(.*?)(?: +#+)? *$", text, re.MULTILINE):
        shown = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        slug = re.sub(r"[^\w\- ]", "", shown.lower()).replace(" ", "-")
        numbered = (f"{slug}-{number}" if number else slug for number in itertools.count())
        anchors.add(next(each for each in numbered if each not in anchors))
    return anchors


def wrong_paths(document: Document) -> Iterator[str]:
    """Paths exist: from the root, from the package, beside or below the document."""
    for code in document.codes:
        if looks_like_path(code) and not is_path(document, code):
            yield f"path {code}"
    for command in document.commands:
        for word in command.words:
            folder, slash, _ = word.partition("/")
            is_ours = folder and slash and (document.root / folder).is_dir()
            if is_ours and not is_path(document, word):
                yield f"path {word} in: {command.text}"


def looks_like_path(code: str) -> bool:
    is_path = re.fullmatch(r"\w[\w.-]*(/[\w.*-]+)*/?", code) is not None
    return is_path and ("/" in code or code.endswith(SUFFIXES))


def is_path(document: Document, path: str) -> bool:
    """Whether a path is there. NAME stands for any name; a reader's own file is in a command."""
    if path in FOREIGN_PATHS or path in DATA_FILES:
        return True
    parts = [re.sub(r"^[A-Z]+(?=$|\.(?!md$))", "*", part) for part in path.rstrip("/").split("/")]
    folder = document.path.parent
    places = [document.root, document.root / "hygen_vllm", folder]
    places += document.root.glob("patches/vllm-*")
    if any(next(place.glob("/".join(parts)), None) for place in places):
        return True
    if len(parts) > 1:
        return False
    is_below = folder != document.root and any(folder.glob(f"*/**/{parts[0]}"))
    words = (re.split(r"[\s'\"=]+", block.text) for block in document.blocks)
    return is_below or any(path in each for each in words)


def wrong_commands(document: Document) -> Iterator[str]:
    """Our commands exist and take the flags that they get; whole ones can be parsed."""
    takers = [Options({}, takes_vllm=True)]
    for command in document.commands:
        try:
            takers.append(options_of(document, command))
            errors = command_errors(document, command)
        except LookupError as error:
            errors = [str(error.args[0])]
        yield from (f"{error} in: {command.text}" for error in errors)
    for code in document.codes:
        if code.startswith("--"):  # flags alone are those of a command that is named elsewhere
            yield from flag_errors(takers, shlex.split(code))


def command_errors(document: Document, command: Command) -> list[str]:
    errors = flag_errors([options_of(document, command)], command.words)
    match command.program:
        case "hygen":
            return errors or parse_errors(command)
        case "make":
            return list(make_errors(document, command))
        case program if program.endswith("experiments/run.py"):
            names = " ".join(("", *experiment_folders()))
            named = [word for word in command.words if word[0].isdigit()]
            return errors + [f"experiment {word}" for word in named if f" {word}" not in names]
    return errors


@dataclass(frozen=True)
class Options:
    """The flags of a command, with what argparse knows of them where it can be asked."""

    actions: Mapping[str, argparse.Action | None]
    takes_vllm: bool = False


def options_of(document: Document, command: Command) -> Options:
    """Return the options of a command. Raises: LookupError if there is no such command."""
    if command.program == "hygen":
        parser = parser_of(command.words)
        takes_vllm = parser.get_default("engine_flags") is not None
        return Options(parser._option_string_actions, takes_vllm)
    if command.program.endswith(".py"):
        places = (document.root / command.program, document.path.parent / command.program)
        script = next((place for place in places if place.is_file()), None)
        if script is not None:
            return script_options(script, document.root / "experiments")
        if command.words or not command.is_inline:  # else it may be a module's path
            raise LookupError("no such script")
    return Options({}, takes_vllm=command.program == "vllm")


@functools.cache
def hygen_parser() -> argparse.ArgumentParser:
    return build_parser()


def parser_of(words: Iterable[str]) -> argparse.ArgumentParser:
    """Return the parser of the command of `hygen` that the words begin with."""
    parser = hygen_parser()
    for word in words:
        commands = [each.choices for each in parser._actions if isinstance(each.choices, dict)]
        if not commands:
            break
        if word not in commands[0]:
            raise LookupError(f"no command {word}")
        parser = commands[0][word]
    return parser


@functools.cache
def script_options(script: Path, shared: Path) -> Options:
    """Return the flags that a script adds, or has added by functions from the shared folder."""
    tree = ast.parse(script.read_text(encoding="utf-8"))
    flags = flags_added(tree)
    called = {name for call in calls_in(tree) for name in identifiers(call.func)}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            module = shared / f"{(node.module or '').replace('.', '/')}.py"
            text = module.read_text(encoding="utf-8") if module.is_file() else ""
            for each in ast.parse(text).body:
                if isinstance(each, ast.FunctionDef) and each.name in called:
                    flags |= flags_added(each)
    return Options(dict.fromkeys(flags), takes_vllm="parse_known_args" in called)


def flags_added(tree: ast.AST) -> set[str]:
    adding = [call for call in calls_in(tree) if "add_argument" in identifiers(call.func)]
    return {text for call in adding for each in call.args for text in texts_in(each)}


def flag_errors(takers: list[Options], words: Sequence[str]) -> list[str]:
    """Return what is wrong about flags, each of which one of the takers should know."""
    errors = []
    for word, after in itertools.zip_longest(words, words[1:], fillvalue=""):
        flag, has_value, value = word.partition("=")
        if not flag.startswith("--"):
            continue
        found = [options.actions[flag] for options in takers if flag in options.actions]
        if not found and flag in VLLM_FLAGS and any(options.takes_vllm for options in takers):
            found = [None]
        reasons = [value_error(flag, action, value if has_value else after) for action in found]
        if all(reasons):
            errors.append(f"flag {flag}: {reasons[0] if reasons else 'there is none'}")
    return errors


def value_error(flag: str, action: argparse.Action | None, value: str) -> str | None:
    """Return what is wrong about the value that a flag gets, as far as one can say."""
    if is_placeholder(value) or value.startswith("--") or not value:
        return None
    try:
        VALUE_CHECKS.get(flag, str)(value)
        if action is None or action.nargs == 0:
            return None
        read = action.type(value) if callable(action.type) else value
    except (ValueError, TypeError, argparse.ArgumentTypeError) as error:
        return str(error)
    is_choice = action.choices is None or read in action.choices
    return None if is_choice else f"{value} is none of {', '.join(map(str, action.choices or ()))}"


def check_setting(text: str) -> None:
    HyGenConfig.from_mapping(dict([setting(text)]), "--setting")


def check_additional_config(text: str) -> None:
    if set(json.loads(text)) != {CONFIG_KEY}:
        raise ValueError(f"{text} has another key than {CONFIG_KEY}")


def check_class(text: str) -> None:
    if not project_names().has(text.split(".")):
        raise ValueError(f"no {text}")


def check_workload(text: str) -> None:
    if "." not in text and text not in (*sources.ONLINE_NAMES, *sources.OFFLINE_NAMES):
        raise ValueError(f"{text} is neither a file nor a workload's name")


VALUE_CHECKS: Mapping[str, Callable[[str], object]] = {
    "--slo": Slo.parse,
    "--setting": check_setting,
    "--additional-config": check_additional_config,
    "--scheduler-cls": check_class,
    "--online": check_workload,
    "--offline": check_workload,
}


def parse_errors(command: Command) -> list[str]:
    """Return why `hygen` would refuse a command that is there as a whole."""
    if not command.is_whole:
        return []
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
            hygen_parser().parse_known_args(command.words)
    except SystemExit as stop:
        return [said.getvalue().strip()] if stop.code else []
    return []


def make_errors(document: Document, command: Command) -> Iterator[str]:
    """Yield targets and variables that the Makefile lacks, and what is wrong in their values."""
    makefile = (document.root / "Makefile").read_text(encoding="utf-8")
    targets = re.findall(r"^([\w.-]+%?):", makefile, re.MULTILINE)
    for word in command.words:
        name, is_variable, value = word.partition("=")
        if not is_variable:
            if not any(fnmatch(name, target.replace("%", "*")) for target in targets):
                yield f"no target {name}"
            continue
        if f"$({name})" not in makefile:
            yield f"no variable {name}"
        for recipe in re.findall(rf"^\t@?(.*\$\({name}\).*)$", makefile, re.MULTILINE):
            line = recipe.replace("$(BIN)/", "").replace(f"$({name})", value)
            for inner in commands_in(line):
                yield from command_errors(document, inner)


def wrong_profiles(document: Document) -> Iterator[str]:
    """Profiles that are named in blocks ship: what begins with the name of a device is one."""
    shipped = shipped_profiles()
    devices = "|".join({name.partition("-")[0] for name in shipped})
    for block in document.blocks:
        for name in re.findall(rf"(?<![\w/.-])(?:{devices})-[\w.-]+", block.text):
            if name not in shipped:
                yield f"profile {name}"


def wrong_names(document: Document) -> Iterator[str]:
    """Names in inline code are the project's, and its modules and classes have what is said."""
    names = project_names()
    for dotted in re.findall(r"\bhygen_vllm\w*[.:][\w.:]*\w", document.everything):
        if not names.has(re.split("[.:]", dotted)):
            yield f"name {dotted}"
    for variable in re.findall(r"\bHYGEN_\w+", document.everything):
        if variable not in names.texts:
            yield f"environment variable {variable}"
    for extra in re.findall(r"(?:hygen-vllm|'\.)\[(\w+)\]", document.everything):
        if extra not in names.texts:
            yield f"extra {extra}"
    for code in document.codes:
        is_other = code.startswith("-") or looks_like_path(code)
        if not is_other and any(is_unknown(names, chain) for chain in chains_in(code)):
            yield f"name {code}"


def chains_in(code: str) -> Iterator[list[str]]:
    """Yield the names in a code with those before their dots: [a, b] and [c] for a.b(c=1)."""
    if re.fullmatch(r"\w+(-[\w.]+)+", code):
        yield [code]
        return
    tree = tree_of(code)
    inner = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Dict):
            yield from ([text] for key in node.keys if key for text in texts_in(key))
        elif id(node) not in inner and (chain := chain_of(node)):
            yield chain


def tree_of(code: str) -> ast.AST:
    """Return the syntax tree of an expression or an argument; an empty one for anything else."""
    for text in (code.replace("[]", ""), f"dict({code})"):
        with contextlib.suppress(SyntaxError):
            return ast.parse(text, mode="eval")
    return ast.Module([], [])


def chain_of(node: ast.AST) -> list[str]:
    before = chain_of(node.value) if isinstance(node, ast.Attribute) else []
    return [*before, *identifiers(node)]


def is_unknown(names: Names, chain: list[str]) -> bool:
    """Whether the project does not know a name, given with those before its dots."""
    first, *rest = chain
    if rest and f"hygen_vllm.{first}" in names.modules:
        return not names.has(["hygen_vllm", *chain])
    if rest and not names.is_member(first, rest[0]):
        return True
    is_text = ".".join(chain) in names.texts
    return not is_text and not all(is_known(names, each) for each in chain)


def is_known(names: Names, name: str) -> bool:
    """Whether a name is the project's, or stands for others: an ending like _s, a word like DIR."""
    if name in names.known or name in names.texts or name in FOREIGN_NAMES:
        return True
    if re.fullmatch("_[a-z]+", name):
        return any(each.endswith(name) for each in names.known)
    return re.fullmatch("[A-Z]+", name) is not None


def wrong_settings(document: Document) -> Iterator[str]:
    """Settings with a value, in YAML, JSON or inline code, are settings, and the value fits."""
    texts = [code for code in document.codes if re.match(r'"?[a-z_]+"?: ', code)]
    for block in document.blocks:
        texts += re.findall(r"'(\{\"hygen\": .*?\})'", block.text)
        texts += re.findall(r"\bhygen\.yaml: (\{.*?\})", block.text)
        if block.language in ("yaml", "json") or re.match(r"[a-z_]+:( |\n)", block.text):
            texts.append(block.text)
            texts += re.findall(r"#.* ([a-z]+_[a-z_]+: \S+)$", block.text, re.MULTILINE)
    for text in texts:
        yield from (f"setting {text}: {error}" for error in setting_errors(text))
    for code in document.codes:
        if re.fullmatch(r"(ttft|tbt)\w*=\S+", code):
            yield from (f"target {code}: {error}" for error in errors_of(Slo.parse, code))


def setting_errors(text: str) -> list[str]:
    try:
        values = yaml.safe_load(f"{{{text}}}" if text.startswith('"') else text)
    except yaml.YAMLError as error:
        return [" ".join(str(error).split())]
    if not isinstance(values, dict):
        return ["not names with values"]
    if "applications" in values:
        return [error for each in values["applications"] for error in app_errors(each)]
    values = values.get(CONFIG_KEY, values)
    is_file = isinstance(values, str)
    if is_file or values.keys() <= AppConfig.model_fields.keys():
        return []
    return errors_of(HyGenConfig.from_mapping, values, "settings")


def app_errors(application: Mapping[str, Any]) -> list[str]:
    arguments = application.get("args", {})
    flags = [f"--{name.replace('_', '-')}" for name in arguments.get("engine", {})]
    unknown = [f"engine: no flag {flag}" for flag in flags if flag not in VLLM_FLAGS]
    return unknown + errors_of(AppConfig.from_mapping, {CONFIG_KEY: {}, **arguments})


def errors_of(call: Callable[..., object], *arguments: object) -> list[str]:
    try:
        call(*arguments)
    except ValueError as error:
        return [str(error)]
    return []


def wrong_python(document: Document) -> Iterator[str]:
    """Python compiles, and what it imports of ours and passes to ours is there."""
    for block in document.blocks:
        if block.language in ("python", "py") or re.match(r"(from|import) \w", block.text):
            try:
                compile(block.text, document.name, "exec")
            except SyntaxError as error:
                yield f"python {error.text}: {error.msg}"
                continue
            tree = ast.parse(block.text)
            yield from itertools.chain(wrong_imports(tree), wrong_arguments(tree))
    for code in document.codes:
        yield from wrong_arguments(tree_of(code))


def wrong_imports(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("hygen_vllm"):
            for alias in node.names:
                if not project_names().has([*node.module.split("."), alias.name]):
                    yield f"import {node.module}.{alias.name}"


def wrong_arguments(tree: ast.AST) -> Iterator[str]:
    """Dataclasses and settings get their fields; keys of requests, labels among them, are known."""
    names = project_names()
    for call in calls_in(tree):
        name = next(identifiers(call.func), "")
        if name not in names.classes:
            continue
        if "Settings" in names.bases[name] or "__init__" not in names.members(name):
            wrong = [each.arg for each in call.keywords if not names.is_member(name, each.arg)]
            yield from (f"argument {name}.{each}" for each in wrong)
    for node in ast.walk(tree):
        keys = node.keys if isinstance(node, ast.Dict) else ()
        wrong = [text for key in keys if key for text in texts_in(key) - names.texts]
        yield from (f"key {each}" for each in wrong)


CHECKS = (
    wrong_links,
    wrong_paths,
    wrong_commands,
    wrong_profiles,
    wrong_names,
    wrong_settings,
    wrong_python,
)


@functools.cache
def documents() -> list[Document]:
    return [read_document(path) for path in find_documents(ROOT)]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_nothing_is_wrong_in_the_documents(check: Callable[[Document], Iterator[str]]) -> None:
    wrong = [f"{document.name}: {what}" for document in documents() for what in check(document)]
    assert "\n".join(wrong) == ""


def test_everything_that_is_listed_as_foreign_is_in_a_document() -> None:
    """A list that is longer than need be hides mistakes."""
    text = "\n".join(document.everything for document in documents())
    listed = (*VLLM_FLAGS, *FOREIGN_NAMES, *FOREIGN_PATHS)
    assert [each for each in listed if each not in text] == []


# The checks find mistakes


@pytest.fixture
def document_of(tmp_path: Path) -> Callable[[str], Document]:
    """Make a document in a project with a Makefile, a script and another document."""
    files = {
        "Makefile": "demo: setup\n\t@$(BIN)/hygen demo $(DEMO_ARGS)\ntest-%:\n\t@true\n",
        "tools/run.py": "from shared import add\nadd(p)\np.add_argument('--quick')\n",
        "experiments/run.py": "",
        "experiments/shared.py": "def add(p):\n    p.add_argument('--slow')\n",
        "docs/other.md": "# A `b`: C-d, _e_!\n\n## Twice\n\n## Twice\n\n    # not a heading\n",
    }
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content, encoding="utf-8")

    def write(text: str) -> Document:
        path = tmp_path / "docs/document.md"
        path.write_text(f"# Title\n\n{text}\n", encoding="utf-8")
        return read_document(path, tmp_path)

    return write


# Each is right with what is before the bar, and wrong with what is behind it.
LINKS = (
    "[a](@other.md|others.md@ 'title'), `[a](no.md)`",
    "[![a](@other.md|none.png@)](other.md)",
    "[a](#@title|titel@)",
    "[a](other.md#@a-b-c-d-_e_|not-a-heading@)",
    "[a](other.md#twice-@1|2@)",
    "[a](@other.md#twice|../Makefile#demo@)",
    "[a]\n\n[a]: @other.md|no.md@",
    "<img src='@other.md|no.png@'>",
    "[a](@https|htps@://a.org/b#c)",
    "<https://a@.org|@>",
    "[a](@other.md|../..@)",
)
PATHS = (
    "`tools/@run|runs@.py`",
    "`@docs|doc@/`",
    "`@other|others@.md`",
    "`docs/NAME`, `NAME/run.@py|csv@`",
    "`a.yaml`\n\n    serve run @a|b@.yaml",
    "    hygen demo --out tools/@run.py|x@",
)
SIMULATE = "    hygen simulate --policy slo --profile a100-llama2-7b --json -"
COMMANDS = (
    "`hygen batch @run|walk@`",
    f"{SIMULATE} @--seed|--sed@ 1",
    f"{SIMULATE} --seconds @1|-1@",
    "    hygen plan --trace t.csv @--profile p|@  # needs it",
    "    hygen plan --trace t.csv @... |@",
    "`hygen @tune|plan@ --dtype bfloat16`",
    "`--slo S` of `hygen @plan|demo@`",
    "`--@seed|seeds@ 1` of `hygen demo`",
    "`hygen demo --seed @N|n@`",
    "`hygen plan --slo @tbt|tpt@_p99=+5%`",
    "`hygen plan --setting @slos|slo@=[tbt_p99=+5%]`",
    "`hygen plan --setting offline_order=@fcfs|fifo@`",
    "`hygen simulate --router @slo|fastest@`",
    "`hygen tune --online @azure|azur@`",
    "    $ .venv/bin/python tools/@run|ran@.py",
    "    python tools/run.py --@quick|quickly@",
    "`../tools/run.py --@slow|slower@`",
    "`python experiments/run.py @10|98@`",
    "    A=b vllm serve MODEL --@dtype|type@ float16",
    "    vllm serve MODEL --scheduler-cls hygen_vllm.@HyGen|@Scheduler",
    """    vllm serve MODEL --additional-config '{"@hygen|hygn@": "f.yaml"}'""",
    "    make @demo|dmo@  # now",
    "`make @test|tests@-0.1`",
    "`make demo @DEMO_ARGS|ARGS@='--seed 1'`",
    "`make demo DEMO_ARGS='--@seed|sed@ 1'`",
)
PROFILES = ("    hygen fit a100-@llama|lama@2-7b",)
CODE_NAMES = (
    "`@HyGen|Hygen@Scheduler`",
    "`StepCost.best_@chunk|chunks@`",
    "`batch.@job|jobs@.add_results`",
    "`@schedule|scheduled_it@()`",
    "`f(@num_tokens|num_tokenses@=1)`",
    "`vllm.general_@plugins|plugs@`",
    "`slos={'slo_@class|kind@': 1}`",
    "`power-of-@two|too@`",
    "`_@tokens|token_s@`",
    "`@BATCH|BATCHED@_GATE`",
    "    from hygen_vllm.@config|configs@ import A",
    "    import_path: hygen_vllm.ray_serving:@build|make@_app",
    "    HYGEN_@DATA|DATE@=folder make demo",
    "    pip install '.[@ray|rays@]'",
)
APP = "    applications:\n      - args: {model: m, "
SETTINGS = (
    "`@slos|slots@: [tbt_p99=+20%]`",
    "`slos: [@tbt|tpt@_p99=+20%]`",
    '`"trace": @"steps.csv"|3@`',
    "`tbt_@mean|men@=+20%`",
    "```yaml\nmode: @off|out@\n```",
    "    slos:\n      - tbt_p99=@1ms|ms@",
    "    # hygen.yaml: {@trace|traces@: a}",
    """    # '{"hygen": {"@trace|traces@": "a"}}'""",
    f"{APP}@on_cpu|on_cpus@: true}}",
    f"{APP}num_replicas: @1|0@}}",
    f"{APP}hygen: {{@slos|slo@: [tbt_p99=1ms]}}}}",
    f"{APP}engine: {{@max_model_len|max_len@: 1}}}}",
    f"{APP}}}  # or @on_cpu|on_cpus@: true",
)
PYTHON = (
    "```python\nf(@..., a=1|a=1, ...@)\n```",
    "    from hygen_vllm import HyGen@Config|Settings@",
    "`AppConfig(@model|modell@=...)`",
    "```python\nf({'@tenant|tenent@': 1})\n```",
)
MISTAKES = dict(
    zip(CHECKS, (LINKS, PATHS, COMMANDS, PROFILES, CODE_NAMES, SETTINGS, PYTHON), strict=True)
)


@pytest.mark.parametrize(
    ("check", "text"), [(check, text) for check, texts in MISTAKES.items() for text in texts]
)
def test_check_finds_what_is_wrong_and_nothing_else(
    check: Callable[[Document], Iterator[str]], text: str, document_of: Callable[[str], Document]
) -> None:
    assert [] == list(check(document_of(re.sub(r"@(.*?)\|.*?@", r"\1", text))))
    assert [] != list(check(document_of(re.sub(r"@.*?\|(.*?)@", r"\1", text))))


def test_documents_are_found_wherever_they_are_but_those_of_programs(tmp_path: Path) -> None:
    there = ("README.md", "docs/deep/A.md", ".venv/b.md", "build/c.md", "x.egg-info/d.md")
    for name in there:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = [path.relative_to(tmp_path).as_posix() for path in find_documents(tmp_path)]
    assert ["README.md", "docs/deep/A.md"] == found
    names = {document.name for document in documents()}
    assert {"README.md", "DESIGN.md", "profiles/README.md", "experiments/RESULTS.md"} <= names


def test_code_is_read_as_markdown_has_it(tmp_path: Path) -> None:
    """Blocks are fenced or indented, inline code may go on in the next line."""
    path = tmp_path / "a.md"
    path.write_text(
        "Say `a\nb` or ``c`d``. <!-- `no` -->\n    not code: `e`\n\n    f \\\n      g\n\n    h\n\n"
        "```python\n`i`\n\n    j\n```\n- k\n  ```\n  l\n  ```\n",
        encoding="utf-8",
    )
    document = read_document(path, tmp_path)
    assert ["a b", "c`d", "e"] == document.codes
    blocks = [Block("`i`\n\n    j", "python"), Block("l"), Block("f \\\n  g"), Block("h")]
    assert blocks == list(document.blocks)


# More of the README


def readme() -> str:
    return (ROOT / "README.md").read_text(encoding="utf-8")


def test_first_two_commands_of_the_readme_are_demo_and_test() -> None:
    """Nothing is installed by hand before them."""
    commands = re.findall(r"^    (make .*?|pip .*?)(?:  .*)?$", readme(), re.MULTILINE)
    assert commands[:2] == ["make demo", "make test"]


def test_simulations_in_the_documents_are_parsed_as_a_whole() -> None:
    commands = [each for path in DOCS.glob("*.md") for each in read_document(path).commands]
    whole = [
        command.words[0] for command in commands if command.program == "hygen" and command.is_whole
    ]
    assert {"simulate", "report", "plan", "tune", "batch"} <= set(whole)


def test_table_of_settings_is_that_of_the_configuration() -> None:
    """It has one row for each field, with its default, and no other."""
    section = in_section("operate.md", "## Settings")
    rows = re.findall(r"^\| `(\w+)` \| (.*?) \|", section, flags=re.MULTILINE)
    assert [name for name, _ in rows] == [*HyGenConfig.model_fields]
    for name, default in rows:
        if re.fullmatch(r"[\d.]+", default):
            assert float(default) == HyGenConfig.model_fields[name].default


def test_table_of_vllms_names_has_those_that_are_read_of_its_scheduler() -> None:
    section = in_section("../DESIGN.md", "## What is used of vLLM")
    state = (ROOT / "hygen_vllm/engine/state.py").read_text(encoding="utf-8")
    read = set(re.findall(r"\b_?scheduler\.(\w+)", state)) - {"py"}
    assert read - set(re.findall(r"\w+", section)) == set()


def test_table_of_policies_has_those_that_can_be_simulated() -> None:
    """It names each of them once, and no other."""
    section = in_section("simulate.md", "### Policies")
    cells = "".join(re.findall(r"^\| (`.*?) \|", section, flags=re.MULTILINE))
    assert sorted(NAMES) == sorted(re.findall(r"`([\w-]+)`", cells))


def test_readme_is_one_screen_that_leads_to_every_page() -> None:
    assert len(readme().splitlines()) <= MOST_README_LINES
    pages = {f"docs/{path.name}" for path in DOCS.glob("*.md")} - {"docs/index.md"}
    assert pages <= set(re.findall(r"\]\((docs/[^)]*)\)", readme()))


def in_section(page: str, heading: str) -> str:
    """Return the text below a heading, up to the next one of its level."""
    text = (DOCS / page).read_text(encoding="utf-8").split(f"\n{heading}\n")[1]
    return text.split(f"\n{heading.split(maxsplit=1)[0]} ")[0]
