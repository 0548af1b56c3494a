"""
Reads the Python text that OpenMMLab's configs are stored as, without running it. What is guarded against is told in
`safe_loading`.
"""

import ast
import warnings
from collections.abc import Callable, Iterable
from types import NoneType
from typing import Any

from .errors import ConversionError


# Memory: parsing takes some hundred times the text's. The configs of MMSegmentation have some ten thousand characters.
MAX_CONFIG_LENGTH = 2**20
# Memory and hanging: repeated multiplication would make integers of any size otherwise.
MAX_INTEGER = 2**63
# Memory: unpacking (`**value`) copies, so one large dictionary, unpacked in many places, would fill it.
MAX_UNPACKED_ENTRIES = 100_000

ARITHMETIC: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: lambda left, right: left + right,
    ast.Sub: lambda left, right: left - right,
    ast.Mult: lambda left, right: left * right,
    ast.Div: lambda left, right: left / right,
    ast.FloorDiv: lambda left, right: left // right,
}


class Refused(Exception):
    """Text that is more than data. Its arguments are the syntax node and what is said of it."""


class Variables(dict[str, Any]):
    """The variables that were assigned so far, and how many entries were unpacked on the way."""

    num_unpacked = 0


def parse_python_config(text: str, name: str) -> dict[str, Any]:
    """
    The variables that the text of a config assigns: literals, `dict(...)`, names assigned before, and arithmetic on
    numbers. Anything else is refused, wherever it stands, and nothing is executed.

    Args:
        text (`str`): The config, as MMSegmentation stores it in checkpoints and writes it beside them.
        name (`str`): Where it is from, for errors.

    Raises:
        ConversionError: if the text is no Python, does anything but assign data, or inherits from files that are not
            part of it.
    """
    if len(text) > MAX_CONFIG_LENGTH:
        raise ConversionError(f"{name} has {len(text)} characters, which is no config (at most {MAX_CONFIG_LENGTH}).")
    variables = Variables()
    try:
        with warnings.catch_warnings():
            # The compiler warns of code, which is not run here.
            warnings.simplefilter("ignore")
            statements = ast.parse(text).body
        for statement in statements:
            _execute(statement, variables)
    except Refused as error:
        node, message = error.args
        raise ConversionError(f"{name} is refused: line {node.lineno} {message}.") from None
    # Nesting without end exhausts the recursion of the parser or of the evaluation.
    except (SyntaxError, ValueError, RecursionError, MemoryError, ArithmeticError, TypeError) as error:
        raise ConversionError(f"{name} is not a config in Python: {str(error) or type(error).__name__}.") from error
    if "_base_" in variables:
        raise ConversionError(
            f"{name} inherits from other files (`_base_`), which are not read. Put the complete config in its place, "
            "which training writes into its work_dir."
        )
    return dict(variables)


def _execute(statement: ast.stmt, variables: Variables):
    is_text = isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
    if is_text or isinstance(statement, ast.Pass):
        return
    if not isinstance(statement, ast.Assign) or not all(isinstance(target, ast.Name) for target in statement.targets):
        raise Refused(statement, "does something else than assign a value to a name")
    value = _evaluate(statement.value, variables)
    for target in statement.targets:
        variables[target.id] = value


def _evaluate(node: ast.expr, variables: Variables) -> Any:
    match node:
        case ast.Constant():
            # Larger ones could not even be printed in errors.
            if type(node.value) is int and node.value > MAX_INTEGER:
                raise Refused(node, f"holds an integer above {MAX_INTEGER}")
            return node.value
        case ast.List() | ast.Tuple() | ast.Set():
            elements = [_evaluate(element, variables) for element in node.elts]
            return tuple(elements) if isinstance(node, ast.Tuple) else elements
        case ast.Dict():
            entries = zip(node.keys, node.values, strict=True)
            return _merge(((key and [_evaluate(key, variables)], value) for key, value in entries), variables)
        case ast.Call(func=ast.Name(id="dict"), args=[]):
            return _merge(((word.arg and [word.arg], word.value) for word in node.keywords), variables)
        case ast.Name() if node.id in variables:
            return variables[node.id]
        case ast.UnaryOp(op=ast.USub() | ast.UAdd()):
            number = _check_number(node, _evaluate(node.operand, variables))
            return -number if isinstance(node.op, ast.USub) else number
        case ast.BinOp() if type(node.op) in ARITHMETIC:
            left, right = (_check_number(node, _evaluate(side, variables)) for side in (node.left, node.right))
            return _check_number(node, ARITHMETIC[type(node.op)](left, right))
        case ast.Call(func=ast.Name() | ast.Attribute()):
            name = ast.unparse(node.func)
            raise Refused(node, f"calls {name}, where only dict(name=value) may be called")
        case ast.Name():
            raise Refused(node, f"uses {node.id}, which was not assigned before")
    raise Refused(node, f"holds an expression that is no data ({type(node).__name__})")


def _merge(entries: Iterable[tuple[list | None, ast.expr]], variables: Variables) -> dict[Any, Any]:
    """A dictionary of each `[key]` and what its value evaluates to; with `None` for key (`**value`), of its items."""
    merged: dict[Any, Any] = {}
    for key, node in entries:
        value = _evaluate(node, variables)
        if key is not None:
            # Hanging: to hash a tuple that contains another twice, and that one another twice, takes forever.
            if not isinstance(key[0], (str, int, float, NoneType)):
                raise Refused(node, "has a key that is no text or number")
            merged[key[0]] = value
        elif isinstance(value, dict):
            variables.num_unpacked += len(value)
            if variables.num_unpacked > MAX_UNPACKED_ENTRIES:
                raise Refused(node, f"unpacks more than {MAX_UNPACKED_ENTRIES} entries of dictionaries")
            merged.update(value)
        else:
            raise Refused(node, "unpacks what is no dictionary")
    return merged


def _check_number(node: ast.expr, value: Any) -> Any:
    if type(value) not in (int, float) or (type(value) is int and abs(value) > MAX_INTEGER):
        raise Refused(node, "calculates with something else than numbers of usual size")
    return value


__all__ = ["MAX_CONFIG_LENGTH", "parse_python_config"]
