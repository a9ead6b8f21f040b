"""Blocks: found where one tensor carries all that was changed before, in residual, branched and two-part graphs."""

from __future__ import annotations

import onnx
import pytest

from onnxmpq.execution import Cutter
from onnxmpq.model import Model
from onnxmpq.sensitivity.blocks import Block, find_blocks
from onnxmpq.sensitivity.measure import perturbable
from tests.graphs import graph, prepared


def residual(number: int, before: str) -> str:
    """A pre-norm residual block from tensor `before` to tensor r<number>."""
    n = number
    return (
        f"n{n} = LayerNormalization ({before}, g{n})  q{n} = MatMul (n{n}, q{n}w)  k{n} = MatMul (n{n}, k{n}w) "
        f"m{n} = Mul (q{n}, k{n})  t{n} = Tanh (m{n})  o{n} = MatMul (t{n}, o{n}w)  r{n} = Add ({before}, o{n}) "
    )


def weights(count: int) -> str:
    return ", ".join(f"float[8] g{n}, float[8, 8] q{n}w, float[8, 8] k{n}w, float[8, 8] o{n}w" for n in range(count))


def chain(count: int) -> onnx.ModelProto:
    body = "".join(residual(n, f"r{n - 1}" if n else "x") for n in range(count))
    return graph(f"{body} y = MatMul (r{count - 1}, head)", "float[N, 4, 8] x", "float[N, 4, 8] y",
                 f"{weights(count)}, float[8, 8] head")  # fmt: skip


def blocks_of(model: Model) -> tuple[Block, ...]:
    return find_blocks(Cutter(model.store), perturbable(model))


def check(model: Model, blocks: tuple[Block, ...]) -> None:
    """They follow each other without gaps, and nothing that a block changes is read behind it but its exit: neither its
    own targets nor the exit of the block before."""
    cutter, targets = Cutter(model.store), perturbable(model)
    assert blocks[0].start == 0 and blocks[-1].stop == len(cutter.index.nodes)
    assert [b.stop for b in blocks[:-1]] == [b.start for b in blocks[1:]]
    assert blocks[-1].exit is None and all(b.exit for b in blocks[:-1])
    for block in blocks[:-1]:
        own = [t for t in targets if block.start <= max(cutter.position(t), 0) < block.stop and t not in block.far]
        assert own
        live = set(cutter.live(block.stop))
        for target in (*own, *(b.exit for b in blocks if b.stop == block.start and b.exit)):
            reached = {o.name for o in cutter.between([target], block.stop, live).proto.graph.output}
            assert reached & live <= {block.exit} and (target not in live or target == block.exit), (target, reached)


@pytest.mark.parametrize("count", [2, 4, 8])
def test_a_residual_network_has_a_block_for_each_of_its_own(count: int) -> None:
    model = prepared(chain(count))
    blocks = blocks_of(model)
    check(model, blocks)
    assert [b.exit for b in blocks[:-1]] == [f"r{n}" for n in range(count)]
    assert not any(b.far for b in blocks)


@pytest.mark.parametrize("length", [2, 40])
def test_a_long_branch_is_not_cut_where_the_stream_goes_by(length: int) -> None:
    """As normalisation in single nodes makes it: changes of the blocks before would be lost."""

    def branch(number: int, before: str) -> str:
        nodes = [f"b{number}_{i} = Tanh ({f'b{number}_{i - 1}' if i else before})" for i in range(length)]
        return f"{' '.join(nodes)} o{number} = MatMul (b{number}_{length - 1}, w{number})  " + (
            f"p{number} = MatMul (o{number}, v{number}) r{number} = Add ({before}, p{number})"
        )

    body = " ".join(branch(n, f"r{n - 1}" if n else "x") for n in range(3))
    sizes = ", ".join(f"float[8, 8] w{n}, float[8, 8] v{n}" for n in range(3))
    model = prepared(graph(f"{body} y = MatMul (r2, head)", "float[N, 8] x", "float[N, 8] y",
                           f"{sizes}, float[8, 8] head"))  # fmt: skip
    blocks = blocks_of(model)
    check(model, blocks)
    assert [b.exit for b in blocks[:-1]] == ["r0", "r1", "r2"]


def test_inputs_of_later_blocks_are_no_reason_to_make_one_block_of_all() -> None:
    """As the cache of a decoder."""
    body = "".join(residual(n, f"s{n - 1}" if n else "x") + f"s{n} = Add (r{n}, c{n}) " for n in range(8))
    inputs = ", ".join(f"float[N, 4, 8] c{n}" for n in range(8))
    proto = graph(f"{body} y = MatMul (s7, head)", f"float[N, 4, 8] x, {inputs}", "float[N, 4, 8] y",
                  f"{weights(8)}, float[8, 8] head")  # fmt: skip
    model = prepared(proto)
    blocks = blocks_of(model)
    check(model, blocks)
    assert len(blocks) == 9
    assert blocks[0].far == {f"c{n}" for n in range(8)} and not any(b.far for b in blocks[1:])


def test_a_mask_that_every_block_reads_is_far() -> None:
    """It is no reason to make one block of all."""
    masked = "".join(
        residual(n, f"s{n - 1}" if n else "x") + f"s{n} = Mul (r{n}, mask) " for n in range(4)
    )  # fmt: skip
    proto = graph(f"mask = Sigmoid (x) {masked} y = MatMul (s3, head)", "float[N, 4, 8] x", "float[N, 4, 8] y",
                  f"{weights(4)}, float[8, 8] head")  # fmt: skip
    model = prepared(proto)
    blocks = blocks_of(model)
    check(model, blocks)
    assert len(blocks) == 5
    assert blocks[0].far == {"mask", "x"}


def test_an_embedding_that_is_added_later_makes_the_first_block_longer() -> None:
    """It passes by the first attention, where one tensor carries what the layers before change."""
    first = (
        "e = MatMul (x, ew)  n = LayerNormalization (e, g)  q = MatMul (n, qw)  k = MatMul (n, kw)  m = Mul (q, k) "
        "t = Tanh (m)  s = Softmax (t)  a = MatMul (s, aw)  o = MatMul (a, ow)  r = Add (e, o) "
    )
    rest = "".join(residual(n, f"r{n - 1}" if n else "r") for n in range(4))
    own = "float[8] g, " + ", ".join(f"float[8, 8] {t}w" for t in "eqkao")
    proto = graph(f"{first} {rest} y = MatMul (r3, head)", "float[N, 4, 8] x", "float[N, 4, 8] y",
                  f"{own}, {weights(4)}, float[8, 8] head")  # fmt: skip
    model = prepared(proto)
    blocks = blocks_of(model)
    check(model, blocks)
    assert blocks[0].exit == "r"
    assert not any(b.far for b in blocks)


def test_what_a_decoder_reads_of_its_encoder_does_not_change_in_it() -> None:
    """The decoder's first layer does not depend on the encoder and stands among its first nodes, so it is far."""
    encoder = "".join(residual(n, f"r{n - 1}" if n else "x") for n in range(6))
    decoder = residual(6, "z") + "a6 = Add (r6, r5) " + residual(7, "a6") + "a7 = Add (r7, r5) " + residual(8, "a7")
    proto = graph(f"{encoder} {decoder} y = MatMul (r8, head)", "float[N, 4, 8] x, float[N, 4, 8] z",
                  "float[N, 4, 8] y", f"{weights(9)}, float[8, 8] head")  # fmt: skip
    model = prepared(proto)
    blocks = blocks_of(model)
    check(model, blocks)
    assert {"r4", "r5", "a7"} <= {b.exit for b in blocks}
    assert {t for b in blocks for t in b.far} == {"z", "n6", "q6", "k6", "m6", "t6", "o6", "r6"}


def test_long_skip_connections_leave_one_block() -> None:
    down = "".join(f"d{n} = MatMul ({f'd{n - 1}' if n else 'x'}, d{n}w)  e{n} = Tanh (d{n}) " for n in range(6))
    up = "".join(
        f"u{n} = MatMul ({f's{n + 1}' if n < 5 else 'd5'}, u{n}w)  s{n} = Add (u{n}, e{n}) " for n in range(5, -1, -1)
    )
    sizes = ", ".join(f"float[8, 8] d{n}w, float[8, 8] u{n}w" for n in range(6))
    model = prepared(graph(f"{down} {up} y = Identity (s0)", "float[N, 8] x", "float[N, 8] y", sizes))
    blocks = blocks_of(model)
    check(model, blocks)
    assert blocks[0].stop > 12  # nothing ends on the way down
