"""Linear layers by what the processor does fastest: as the weights are, or in int8.

A layer is a function from ``[..., in]`` to ``[..., out]``. It keeps no state of a call.
"""

import warnings
from collections.abc import Callable
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

Linear = Callable[[Tensor], Tensor]

INT8_ENCODER_WIDTH = 512
"""Narrower encoders stay as they are: quantising their activations takes what int8 products save
(tiny, 384 wide: 0.93 of the time, and 0.1 points of word error rate lost; base, 512: 0.80)."""

_ZERO_POINT = 128
"""The unsigned byte that stands for 0: oneDNN's fast kernels multiply u8 by s8."""

_NARROW_LEVELS = 63
_NARROW_ZERO = 64
"""Inputs in 7 bits, 1 to 127: processors without VNNI add two products of a byte each in 16 bits,
and 2 x 127 x 127 is what fits there."""


def make_linear(weight: Tensor, bias: Tensor | None, *, int8: bool) -> Linear:
    """``x @ weight.T + bias``.

    Args:
        weight: ``[out, in]``; kept, not copied, unless int8.
        bias: ``[out]`` or None.
        int8: weights in int8 with a scale per output, inputs quantised to 8 bits as they come.
    """
    if int8:
        return (_int8_kernel() or _OneDnnLinear)(weight, bias)
    return lambda x: F.linear(x, weight, bias)


def int8_works() -> bool:
    """Whether this torch multiplies in int8 here, without overflow."""
    return _int8_kernel() is not None


@cache
def _int8_kernel() -> "type[_OneDnnLinear | _FbgemmLinear] | None":
    """The way to multiply in int8 that is right here, the more exact one first.

    Tried on sums that are as large as they get: oneDNN's kernels for processors without VNNI let
    them overflow (measured on an AVX2 machine: 2.7 % off with random numbers, 50 % with these).
    """
    weight, x = torch.ones(48, 64), torch.ones(2, 64)
    for kernel in (_OneDnnLinear, _FbgemmLinear):
        try:
            found = kernel(weight, None)(x)
        except (RuntimeError, AttributeError, NotImplementedError):
            continue
        if bool((found - 64.0).abs().max() < 1.0):
            return kernel
    return None


class _OneDnnLinear:
    """Weights int8 per output channel, inputs 8 bits per row, sums in int32, result float32.

    Each row of the input has its own scale, so that a window's text does not depend on which
    other windows share its batch.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        quantised, scale = _quantised(weight)
        self._outputs = weight.shape[0]
        self._scale = scale
        self._zero = torch.zeros(self._outputs, dtype=torch.int64)
        self._bias = None if bias is None else bias.float()
        self._packed = torch.ops.onednn.qlinear_prepack(quantised, None)

    def __call__(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])
        scale = rows.abs().amax(1, keepdim=True).clamp_min_(1e-12).div_(127)
        quantised = (rows / scale).add_(_ZERO_POINT + 0.5).to(torch.uint8)
        product = torch.ops.onednn.qlinear_pointwise(
            quantised, 1.0, _ZERO_POINT, self._packed, self._scale, self._zero, None,
            1.0, 0, torch.float32, "none", [], "",
        )  # fmt: skip
        if self._bias is None:
            product.mul_(scale)
        else:
            product = torch.addcmul(self._bias, product, scale)
        found: Tensor = product.view(*x.shape[:-1], self._outputs)
        return found


class _FbgemmLinear:
    """As above by FBGEMM's kernels, with inputs in 7 bits: exact on every x86 with AVX2."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        quantised, scale = _quantised(weight)
        zeros = torch.zeros(len(scale), dtype=torch.int64)
        with warnings.catch_warnings():
            # PyTorch gives up tensors of this kind (its issue 184982), yet has no other way to
            # these kernels; should they be gone one day, `_int8_kernel` finds that out.
            warnings.simplefilter("ignore", UserWarning)
            make = torch._make_per_channel_quantized_tensor  # noqa: SLF001 - it has no other name
            stored = make(quantised, scale.double(), zeros, 0)
        self._outputs = weight.shape[0]
        self._bias = None if bias is None else bias.float()
        self._packed = torch.ops.quantized.linear_prepack(stored, None)

    def __call__(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])
        scale = rows.abs().amax(1, keepdim=True).clamp_min_(1e-12)
        product = torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32(
            rows / scale, 1.0 / _NARROW_LEVELS, _NARROW_ZERO, self._packed
        )
        if self._bias is None:
            product.mul_(scale)
        else:
            product = torch.addcmul(self._bias, product, scale)
        found: Tensor = product.view(*x.shape[:-1], self._outputs)
        return found


def _quantised(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Weights int8 ``[out, in]`` and the scale of each output, float32 ``[out]``.

    A thousand rows at a time, which stay in the cache: a third of the time for the vocabulary.
    """
    quantised = torch.empty(weight.shape, dtype=torch.int8)
    scale = torch.empty(weight.shape[0])
    for rows, target, sizes in zip(
        weight.split(1024), quantised.split(1024), scale.split(1024), strict=True
    ):
        exact = rows.float()
        torch.div(exact.abs().amax(1).clamp_min_(1e-12), 127, out=sizes)
        target.copy_((exact / sizes[:, None]).round_())
    return quantised, scale
