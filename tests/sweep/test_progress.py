from precis.policy import get_policy
from precis.sweep.progress import compact_roles


def test_every_role_is_told_once_with_its_reason():
    roles = [
        {"key": role.key, "format": role.format, "reason": role.reason}
        for role in get_policy("p=f32,c=bf16,o=f32").roles()
    ]
    lines = compact_roles({"roles": roles})
    assert lines == [
        "f32: p (f32), a s r m v (the widest of f32, p and c), w (as p), o (given)",
        "bf16: c (given), k g x (as c), gx gw (as g)",
    ]
