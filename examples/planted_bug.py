"""burnish's command with a bug planted in one of its rules, to see how it is found.

python examples/planted_bug.py compile MODEL --verify -o OUT
python examples/planted_bug.py bisect burnish-failure-raise-activations
"""

from dataclasses import replace

from torch import fx

from burnish.cli import main
from burnish.ir.edit import Editor
from burnish.passes import pipelines
from burnish.rewrite.engine import Rule
from burnish.rewrite.matching import Match


def with_operands_swapped(rule: Rule) -> Rule:
    """The rule, but in layer 1 it takes the gate for the value and the value for the gate."""

    def swapped(editor: Editor, match: Match) -> fx.Node | None:
        node = rule.replace(editor, match)
        if node is not None and ".1." in f"{node.meta['origin'].module}.":
            node.args = (node.args[1], node.args[0], *node.args[2:])
        return node

    return replace(rule, replace=swapped)


rules = pipelines.RAISE_ACTIVATIONS.rules
planted = tuple(with_operands_swapped(rule) if rule.name == "gated activation" else rule for rule in rules)
pipelines.RAISE_ACTIVATIONS = replace(pipelines.RAISE_ACTIVATIONS, rules=planted)

if __name__ == "__main__":
    main()
