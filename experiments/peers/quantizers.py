"""What other libraries' quantizers make of the same numbers, recorded for tests.

Question: are codes and scales those of bitsandbytes (int8 rows, NF4) and torchao (int8 rows of
activations, int8 channels of weights), and where not, why? Half a minute:

    uv run --no-project --with torch,bitsandbytes,torchao,numpy \
        python experiments/peers/quantizers.py tests/quant/peers.npz

Expected: the same codes, but that a scale may differ by an ulp where another library divides by
127, and a code by one where that moves a value over a tie.
"""

import sys
from importlib.metadata import version

import bitsandbytes.functional as bnb
import numpy as np
import torch
import torchao.quantization.utils as torchao


def rows() -> np.ndarray:
    """[24, 128] float32: random rows, and rows whose scale is a power of two, with many ties."""
    rng = np.random.default_rng(0)
    drawn = rng.standard_t(3, (16, 128)) * 10.0 ** rng.uniform(-3, 3, (16, 1))
    halves = rng.integers(-253, 254, (8, 128)) / 2
    halves[:, 7] = 127
    exact = halves * 2.0 ** np.arange(-4, 4)[:, None]
    return np.concatenate([drawn, exact]).astype(np.float32)


def main(path: str) -> None:
    """Writes the inputs, and each quantizer's codes and scales, to `path`."""
    x = rows()
    given = torch.from_numpy(x)
    int8_codes, int8_absmax, _ = bnb.int8_vectorwise_quant(given.clone())
    nf4_packed, nf4_state = bnb.quantize_4bit(given, blocksize=64, quant_type="nf4")
    nf4_values = bnb.dequantize_4bit(nf4_packed, nf4_state)
    half = bnb.int8_vectorwise_quant(given.half())
    token_codes, token_scale = torchao._quantize_activation_per_token_absmax(given)
    channel_codes, channel_scale, _ = torchao.dynamically_quantize_per_channel(
        given, -128, 127, torch.int8
    )
    recorded = {
        "bitsandbytes_int8_codes": int8_codes,
        "bitsandbytes_int8_absmax": int8_absmax,
        "bitsandbytes_int8_half_codes": half[0],
        "bitsandbytes_int8_half_absmax": half[1],
        "bitsandbytes_nf4_packed": nf4_packed,
        "bitsandbytes_nf4_absmax": nf4_state.absmax,
        "bitsandbytes_nf4_values": nf4_values,
        "torchao_token_codes": token_codes,
        "torchao_token_scale": token_scale,
        "torchao_channel_codes": channel_codes,
        "torchao_channel_scale": channel_scale,
    }
    versions = {name: version(name) for name in ("torch", "bitsandbytes", "torchao")}
    arrays = {name: array.numpy() for name, array in recorded.items()}
    np.savez_compressed(path, x=x, versions=np.array(str(versions)), **arrays)


if __name__ == "__main__":
    main(sys.argv[1])
