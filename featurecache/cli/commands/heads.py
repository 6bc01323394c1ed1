"""``featurecache heads``: the heads and their parameters."""

from textwrap import wrap
from typing import Annotated

import typer

from featurecache.cli.console.output import WIDTH, Json, print_beside, print_json, say, show


def heads(
    head: Annotated[
        str | None, typer.Argument(metavar="[HEAD]", help="The name of a head.", show_default="all of them")
    ] = None,
    json: Json = False,
) -> None:
    """List the heads with what they learn, their parameters, default values and allowed values."""
    from heads import estimator_names, head_spec, head_targets, load_heads

    shown, faults = load_heads() if head is None else ({head: head_spec(head)}, [])
    for fault in faults:
        say(f"warning: {fault}")
    if json:
        print_json({name: spec.to_dict() | {"targets": list(head_targets(name))} for name, spec in shown.items()})
        return
    for name, spec in shown.items():
        for line in wrap(f"{name}: {spec.summary}", WIDTH, subsequent_indent="  "):
            show(line)
        print_beside("  --target", ", ".join(head_targets(name)))
        for parameter in spec.parameters:
            print_beside(f"  -p {parameter.name}={_as_typed(parameter.default)}", parameter.help)
            print_beside("", parameter.expected)
            if parameter.name in spec.number_defaults:
                print_beside("", f"{_as_typed(spec.number_defaults[parameter.name])} by default for --target number")
        show()
    if head is None:
        for line in wrap(f"scikit-learn's estimators are heads as well: {', '.join(estimator_names())}", WIDTH):
            show(line)
        show()
    show("Set them with: featurecache train CACHE HEAD_DIR --head NAME -p KEY=VALUE")


def _as_typed(value: object) -> str:
    """Return a parameter's value in the form of the command line."""
    return str(value).lower() if isinstance(value, bool) else str(value)
