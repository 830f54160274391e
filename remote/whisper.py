"""The lean Whisper: encoder, decoder and their slots, in plain torch over one contiguous buffer.

Weights are views into one 1-D buffer, as ``layout`` has them. Query, key and value are one
product; the cross-attention keys and values of all decoder layers are one product per window.
Architecture: Radford et al. 2022, "Robust Speech
Recognition via Large-Scale Weak Supervision", as published in openai/whisper (MIT).

It knows tensors only: no files, no tokens' meaning, no sampling.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from remote.layout import WhisperShape, layout
from remote.linear import INT8_ENCODER_WIDTH, Linear, make_linear

Watch = Callable[[int, Tensor, Tensor], None]
"""Is shown (layer, queries [n, heads, t, head], keys [n, heads, audio_ctx, head])."""


class Whisper:
    """A Whisper that runs from one buffer.

    Args:
        shape: its sizes.
        buffer: ``[buffer_size(shape)]`` on the device it will run on; kept, not copied.
        int8: run the linear layers in int8 (CPU only); activations stay float32, and so does
            the encoder of models too narrow to gain by it.
    """

    def __init__(self, shape: WhisperShape, buffer: Tensor, *, int8: bool = False) -> None:
        self.shape = shape
        self.buffer = buffer
        self.device = buffer.device
        self.dtype = buffer.dtype
        self.int8 = int8
        self.cache_dtype = torch.bfloat16 if int8 and _narrow_cache_pays() else buffer.dtype
        self._weights = {
            slot.name: buffer[slot.offset : slot.offset + slot.size].view(slot.shape)
            for slot in layout(shape)
        }
        hears_int8 = int8 and shape.d_model >= INT8_ENCODER_WIDTH
        self._encoder = [
            self._block(f"encoder.{i}.", int8=hears_int8) for i in range(shape.audio_layers)
        ]
        self._decoder = [self._block(f"decoder.{i}.", int8=int8) for i in range(shape.text_layers)]
        self._cross_kv = self._linear("decoder.cross_kv", int8=hears_int8)
        self._logits = make_linear(self._weights["decoder.tokens"], None, int8=int8)

    @property
    def dtype_name(self) -> str:
        """What the weights compute in: "int8", "float32", "bfloat16" or "float16"."""
        return "int8" if self.int8 else str(self.dtype).removeprefix("torch.")

    def encode(self, mel: Tensor) -> Tensor:
        """Audio features ``[batch, audio_ctx, d_model]`` of log-mel ``[batch, n_mels, frames]``.

        On the CPU one window at a time: its layers then stay in the cache (tiny, per window: 278
        against 356 ms in a batch of four).
        """
        if mel.device.type == "cpu":
            return torch.cat([self._encode(window) for window in mel.split(1)])
        return self._encode(mel)

    def _encode(self, mel: Tensor) -> Tensor:
        weight = self._weights
        x = F.gelu(
            F.conv1d(mel, weight["encoder.conv1.weight"], weight["encoder.conv1.bias"], 1, 1)
        )
        x = F.gelu(F.conv1d(x, weight["encoder.conv2.weight"], weight["encoder.conv2.bias"], 2, 1))
        x = x.transpose(1, 2) + weight["encoder.positions"]
        for block in self._encoder:
            x = block.encode(x, self.shape.audio_heads)
        return _norm(x, weight["encoder.norm.weight"], weight["encoder.norm.bias"])

    def cross(self, audio: Tensor) -> Tensor:
        """Cross-attention keys and values of all layers.

        Args:
            audio: ``[batch, audio_ctx, d_model]`` from ``encode``.

        Returns:
            ``[layers, 2, batch, heads, audio_ctx, head_dim]`` (a view, not contiguous).
        """
        batch, length, _ = audio.shape
        shape = self.shape
        fused = self._cross_kv(audio).to(self.cache_dtype)
        split = fused.view(batch, length, shape.text_layers, 2, shape.text_heads, -1)
        return split.permute(2, 3, 0, 4, 1, 5)

    def decode(
        self,
        tokens: Tensor,
        positions: Tensor,
        slots: "Slots",
        rows: slice,
        length: int,
        watch: "Watch | None" = None,
    ) -> Tensor:
        """Hidden states after the last layer; the slots' self-attention cache is written.

        Args:
            tokens: int64 ``[n, t]`` for the ``n`` slots in ``rows``.
            positions: int64 ``[n, t]``: where in its text each token stands.
            slots: the cache, its cross-attention filled.
            rows: which slots, as a slice.
            length: positions that any of these rows has used, these tokens included.
            watch: is shown the cross-attention's queries and keys of each layer.

        Returns:
            ``[n, t, d_model]``, to be turned into logits by ``logits``.
        """
        weight = self._weights
        x = weight["decoder.tokens"][tokens] + weight["decoder.positions"][positions]
        reach = torch.arange(length, device=x.device)
        mask = reach[None, None, :] <= positions[:, :, None]  # [n, t, length]
        for layer, block in enumerate(self._decoder):
            x = block.attend(x, slots, layer, rows, positions, mask, watch)
        return _norm(x, weight["decoder.norm.weight"], weight["decoder.norm.bias"])

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits ``[..., vocab]`` in float32 of hidden states ``[..., d_model]``."""
        return self._logits(hidden).float()

    def _block(self, prefix: str, *, int8: bool) -> "_Block":
        names = {name.removeprefix(prefix) for name in self._weights if name.startswith(prefix)}
        linears = sorted({name.rpartition(".")[0] for name in names if "norm" not in name})
        return _Block(
            {name: self._linear(prefix + name, int8=int8) for name in linears},
            {name: self._weights[prefix + name] for name in names if "norm" in name},
        )

    def _linear(self, name: str, *, int8: bool) -> Linear:
        return make_linear(
            self._weights[f"{name}.weight"], self._weights[f"{name}.bias"], int8=int8
        )


class Slots:
    """The decoder's memory for a fixed number of rows: one window decodes in each.

    Rows in use are always the first ones, so that a batch is a slice and nothing is gathered:
    when a row is finished the last one in use moves into its place.

    Args:
        model: whose caches these are.
        rows: how many windows decode side by side.
        length: longest text in tokens, prompt included.
    """

    def __init__(self, model: Whisper, rows: int, length: int) -> None:
        shape = model.shape
        head = shape.d_model // shape.text_heads
        heads = (shape.text_layers, 2, rows, shape.text_heads)
        self.rows = rows
        self.length = length
        self.self_kv = torch.zeros((*heads, length, head), dtype=model.dtype, device=model.device)
        self.cross_kv = torch.zeros(
            (*heads, shape.audio_ctx, head), dtype=model.cache_dtype, device=model.device
        )

    def fill(self, rows: slice, cross: Tensor) -> None:
        """Writes the cross-attention of new windows (from ``Whisper.cross``) into these rows."""
        self.cross_kv[:, :, rows].copy_(cross)

    def move(self, source: int, target: int) -> None:
        """Copies one row over another."""
        if source != target:
            self.self_kv[:, :, target].copy_(self.self_kv[:, :, source])
            self.cross_kv[:, :, target].copy_(self.cross_kv[:, :, source])


@dataclass(frozen=True, slots=True)
class _Block:
    linear: Mapping[str, Linear]
    norms: Mapping[str, Tensor]

    def encode(self, x: Tensor, heads: int) -> Tensor:
        batch, length, width = x.shape
        qkv = self.linear["qkv"](self._normed("attn_norm", x))
        # Contiguous: the attention's kernel is a quarter faster for it, the copy included.
        q, k, v = qkv.view(batch, length, 3, heads, -1).permute(2, 0, 3, 1, 4).contiguous()
        mixed = F.scaled_dot_product_attention(q, k, v)
        x = x + self.linear["out"](mixed.transpose(1, 2).reshape(batch, length, width))
        return self._feed_forward(x)

    def attend(
        self,
        x: Tensor,
        slots: Slots,
        layer: int,
        rows: slice,
        positions: Tensor,
        mask: Tensor,
        watch: "Watch | None",
    ) -> Tensor:
        n, t, width = x.shape
        keys, values = slots.self_kv[layer][:, rows]  # [n, heads, length, head]
        heads = keys.shape[1]
        qkv = self.linear["qkv"](self._normed("attn_norm", x)).view(n, t, 3, heads, -1)
        index = torch.arange(n, device=x.device)[:, None]
        keys[index, :, positions] = qkv[:, :, 1]
        values[index, :, positions] = qkv[:, :, 2]
        reach = mask.shape[-1]
        mixed = F.scaled_dot_product_attention(
            qkv[:, :, 0].transpose(1, 2), keys[:, :, :reach], values[:, :, :reach], mask[:, None]
        )
        x = x + self.linear["out"](mixed.transpose(1, 2).reshape(n, t, width))
        query = self.linear["cross_q"](self._normed("cross_norm", x)).view(n, t, heads, -1)
        query = query.transpose(1, 2)
        if watch is not None:
            watch(layer, query, slots.cross_kv[layer][0, rows])
        heard = cross_attention(query, slots.cross_kv[layer][:, rows])
        x = x + self.linear["cross_out"](heard.transpose(1, 2).reshape(n, t, width))
        return self._feed_forward(x)

    def _feed_forward(self, x: Tensor) -> Tensor:
        return x + self.linear["fc2"](F.gelu(self.linear["fc1"](self._normed("ffn_norm", x))))

    def _normed(self, name: str, x: Tensor) -> Tensor:
        return _norm(x, self.norms[f"{name}.weight"], self.norms[f"{name}.bias"])


def cross_attention(query: Tensor, keys_values: Tensor) -> Tensor:
    """Attention of a few queries over many keys, ``[n, heads, t, head]``.

    Args:
        query: ``[n, heads, t, head]``.
        keys_values: ``[2, n, heads, audio_ctx, head]``, may be of a narrower dtype.

    On the CPU two batched products read the keys at the speed of memory, twice as fast as the
    fused kernel does for a single query (measured: 6.1 against 6.5 ms in float32, 3.1 against
    24 ms in bfloat16, 16 rows of tiny.en).
    """
    keys, values = keys_values
    if query.device.type != "cpu":
        return F.scaled_dot_product_attention(query, keys, values)
    n, heads, t, head = query.shape
    flat = (n * heads, -1, head)
    scaled = (query * head**-0.5).reshape(n * heads, t, head).to(keys.dtype)
    weights = torch.softmax(torch.bmm(scaled, keys.view(flat).transpose(1, 2)), -1)
    return torch.bmm(weights, values.view(flat)).to(query.dtype).view(n, heads, t, head)


def _narrow_cache_pays() -> bool:
    """Whether this processor multiplies bfloat16 as fast as it reads it.

    With AVX2 alone a step of 16 rows takes 30 times as long as in float32 (measured).
    """
    return torch.backends.cpu.get_cpu_capability().startswith("AVX512")


def _norm(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return F.layer_norm(x, (x.shape[-1],), weight, bias, 1e-5)
