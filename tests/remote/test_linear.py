"""Linear layers: exact as the weights are, close to it in int8, and each row by itself."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from remote.linear import int8_works, make_linear

needs_int8 = pytest.mark.skipif(not int8_works(), reason="torch has no int8 products here")


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_without_int8_the_layer_is_torchs_own_and_keeps_the_weights(dtype: torch.dtype) -> None:
    weight, bias, x = (t.to(dtype) for t in (random(48, 32), random(48), random(2, 5, 32)))
    layer = make_linear(weight, bias, int8=False)
    assert torch.equal(layer(x), F.linear(x, weight, bias))
    weight.zero_()
    assert torch.equal(layer(x), F.linear(x, weight, bias))


@needs_int8
@pytest.mark.parametrize("shape", [(32,), (1, 32), (7, 32), (2, 5, 32), (3, 2, 4, 32)])
@pytest.mark.parametrize("with_bias", [True, False])
def test_int8_is_close_to_float32_in_every_shape(shape: tuple[int, ...], with_bias: bool) -> None:
    weight, x = random(48, 32), random(*shape, seed=1)
    bias = random(48, seed=2) if with_bias else None
    found, expected = make_linear(weight, bias, int8=True)(x), F.linear(x, weight, bias)
    assert found.shape == expected.shape
    assert found.dtype == torch.float32
    assert (found - expected).norm() < 0.03 * expected.norm()


@needs_int8
@settings(max_examples=50)
@given(
    rows=st.integers(1, 40),
    inputs=st.sampled_from([16, 24, 64, 100]),
    outputs=st.integers(1, 70),
    exponent=st.floats(-6, 6),
)
def test_int8_is_close_to_float32_at_every_scale(
    rows: int, inputs: int, outputs: int, exponent: float
) -> None:
    weight, x = random(outputs, inputs), random(rows, inputs, seed=1) * 10**exponent
    found, expected = make_linear(weight, None, int8=True)(x), F.linear(x, weight)
    scale = x.norm() * weight.norm() / inputs**0.5  # of the product, which may cancel out
    # Rounding both sides to a step of a 127th of their largest (inputs of a 63rd, without VNNI)
    # leaves 0.8 % (1.3 %) on average; a single product may have six times that.
    assert (found - expected).norm() < 0.08 * scale


@needs_int8
def test_in_int8_a_row_does_not_depend_on_the_rows_beside_it() -> None:
    layer = make_linear(random(48, 32), random(48), int8=True)
    row = random(1, 32, seed=1)
    loud = torch.cat([row, 1000 * random(5, 32, seed=2)])
    assert torch.equal(layer(loud)[:1], layer(row))


@needs_int8
def test_in_int8_outputs_of_very_different_size_are_each_exact_to_their_size() -> None:
    weight = random(4, 64) * torch.tensor([1e-4, 1e-2, 1, 100])[:, None]
    x = random(200, 64, seed=1)
    found, expected = make_linear(weight, None, int8=True)(x), F.linear(x, weight)
    assert ((found - expected).norm(dim=0) < 0.03 * expected.norm(dim=0)).all()


@needs_int8
def test_in_int8_zeros_stay_zeros() -> None:
    assert not make_linear(random(8, 16), None, int8=True)(torch.zeros(3, 16)).any()
    assert not make_linear(torch.zeros(8, 16), None, int8=True)(random(3, 16)).any()


@needs_int8
def test_in_int8_neither_weights_nor_inputs_are_changed() -> None:
    weight, x = random(8, 16), random(3, 16)
    make_linear(weight, None, int8=True)(x)
    assert torch.equal(weight, random(8, 16))
    assert torch.equal(x, random(3, 16))


@needs_int8
def test_in_int8_the_largest_sums_do_not_overflow() -> None:
    layer = make_linear(torch.ones(5, 1536), None, int8=True)
    assert torch.allclose(layer(torch.ones(2, 1536)), torch.full((2, 5), 1536.0), rtol=1e-5)
    assert torch.allclose(layer(-torch.ones(2, 1536)), torch.full((2, 5), -1536.0), rtol=1e-5)
