"""Policies that have a name, as exactly the text that they stand for."""

from __future__ import annotations

PRESETS = {
    "f32": "p=f32,c=f32,o=f32",
    "bf16": "p=bf16,c=bf16,o=bf16,m=bf16,v=bf16",
    "mixed_bf16": "p=f32,c=bf16,o=f32",
    "mixed_f16": "p=f32,c=f16,o=f32",
    "tf32": "p=f32,c=tf32,x=f32,o=f32",
    # What matrix ops see is scaled, what flows between them is bf16.
    "fp8_hybrid": "p=f32,c=e4m3fn@tensor,g=e5m2@tensor,x=bf16,o=f32",
    "int8": "p=f32,c=int8,g=int8,x=bf16,o=f32",
    "int8_forward": "p=f32,c=int8,g=bf16,x=bf16,o=f32",
    "mxfp8": "p=f32,c=mxfp8_e4m3,g=mxfp8_e4m3,x=bf16,o=f32",
    "nvfp4": "p=f32,c=nvfp4,g=bf16,x=bf16,o=f32",
}
