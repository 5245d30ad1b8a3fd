"""Policies that have a name, as exactly the text that they stand for."""

from __future__ import annotations

PRESETS = {
    "f32": "p=f32,c=f32,o=f32",
    "bf16": "p=bf16,c=bf16,o=bf16,m=bf16,v=bf16",
    "mixed_bf16": "p=f32,c=bf16,o=f32",
    "mixed_f16": "p=f32,c=f16,o=f32",
    "tf32": "p=f32,c=tf32,x=f32,o=f32",
}
