"""The reading of collectives, on text as XLA writes it in all supported versions."""

import pytest

from precis.walk.collectives import Collective, collectives_in

# Metadata and the like left out.
HLO = """
  %all-to-all.1 = (u16[1,1024]{1,0}, u16[1,1024]{1,0}, /*index=2*/u16[1,1024]{1,0}, u16[1,1024]{1,0}) all-to-all(%a, %b, %c, %d), channel_id=1, replica_groups={{0,1,2,3}}
  ROOT %all_gather_invariant.3 = u8[512,256]{1,0} all-gather(%fusion.1), channel_id=2, replica_groups=mesh['d'=4] {'d'}, dimensions={0}
  %all_gather.4 = bf16[512]{0} all-gather(bf16[128]{0} %fusion.2), channel_id=2, replica_groups=[1,4]<=[4], dimensions={0}
  %psum_invariant.7 = f32[] all-reduce(%dot), channel_id=1, replica_groups={{0,1,2,3}}, to_apply=%region_0.1
  %all-reduce = (f32[64,256]{1,0}, f32[]) all-reduce(%all-gather.5, %x), channel_id=1, to_apply=%add
  %reduce-scatter = s8[16]{0} reduce-scatter(%y), channel_id=1, dimensions={0}, to_apply=%add
  %ring = f32[8,2]{1,0} collective-permute(%z), source_target_pairs={{0,1},{1,0}}
  %add.3 = f32[8]{0} add(%all-reduce.1, %all-gather.2)
"""  # noqa: E501

# Of what a ring's all-reduce sends, a device sends (D-1)/D in each of its two halves.
READ = [
    Collective("all-to-all", "u16", 4096, 4096 * 2 * 3 / 4),
    Collective("all-gather", "u8", 512 * 256, 512 * 256 * 3 / 4),
    Collective("all-gather", "bf16", 512, 512 * 2 * 3 / 4),
    Collective("all-reduce", "f32", 1, 4 * 2 * 3 / 4),
    Collective("all-reduce", "f32", 64 * 256 + 1, (64 * 256 + 1) * 4 * 2 * 3 / 4),
    Collective("reduce-scatter", "s8", 16, 16 * 3),
    Collective("collective-permute", "f32", 16, 16 * 4),
]


def test_all_of_them():
    assert list(collectives_in(HLO, 4)) == READ


def test_what_is_split_in_two_is_not_misread():
    start = "%s = (f32[4]{0}, f32[16]{0}) all-gather-start(%x), dimensions={0}"
    with pytest.raises(ValueError, match="asynchronous collectives are not read: %s"):
        list(collectives_in(start, 4))
