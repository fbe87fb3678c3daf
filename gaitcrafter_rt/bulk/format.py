"""The columns of a shard and what its footer says: sharded Parquet, zstd, with a checksum on every page.

| column | type | |
|---|---|---|
| clip_index | uint64 | determines, with the seed, the clip's noise |
| dataset, covariate, view | string | label, null if left to the model |
| identity | string | one name per identity: a label, or a blend as ``001=0.3+002=0.7`` |
| identity_weights | list of {label, weight} | the blend itself, sparse |
| seed | uint64 | |
| silhouette | fixed_size_binary | packed bits: frame, row, column; first pixel in the top bit (numpy.packbits); null if failed |
| quality | uint16 | flags (``quality.py``) |

The footer's key-value metadata holds ``synthetic`` = ``true`` and ``gaitcrafter`` = the plan, the clips' numbers and a hash of
every row group, so that a lone file explains itself. Nothing in a file depends on when, where or by whom it was made.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from ..errors import UnsupportedVersionError
from .arrow import arrow
from .blocks import Block
from .conditions import Conditions, weights_type
from .documents import canonical
from .errors import DamagedError
from .plan import Plan
from .quality import Quality

FORMAT, FORMAT_VERSION = "gaitcrafter-clips", 1
ROW_GROUP = 64
BIT_ORDER = "frame, row, column; first pixel in the most significant bit"
METADATA_KEY = b"gaitcrafter"
_DICTIONARY = ["dataset", "covariate", "view", "identity", "seed"]
# Minima and maxima of 15 kB silhouettes would make up most of the footer.
_STATISTICS = ["clip_index", "dataset", "covariate", "view", "identity", "seed", "quality"]
WRITER_OPTIONS: dict[str, Any] = {
    "compression": "zstd", "compression_level": 1, "use_dictionary": _DICTIONARY, "write_statistics": _STATISTICS,
    "write_page_checksum": True, "write_page_index": True, "version": "2.6", "data_page_version": "1.0",
}  # fmt: skip


def schema(clip_bytes: int) -> Any:
    """Arrow schema of shards whose clips have that many packed bytes."""
    pa = arrow()
    return pa.schema(
        [
            pa.field("clip_index", pa.uint64(), False),
            pa.field("dataset", pa.string()),
            pa.field("identity", pa.string()),
            pa.field("identity_weights", weights_type()),
            pa.field("view", pa.string()),
            pa.field("covariate", pa.string()),
            pa.field("seed", pa.uint64(), False),
            pa.field("silhouette", pa.binary(clip_bytes)),
            pa.field("quality", pa.uint16(), False),
        ]
    )


def clip_bytes(plan: Plan) -> int:
    """Bytes of one packed clip."""
    c = plan.spec.clip
    return (c.frames * c.height * c.width + 7) // 8


def rows(plan: Plan, conditions: Conditions, block: Block) -> Any:
    """A block as an Arrow table."""
    pa = arrow()
    count, width = block.packed.shape
    failed = (block.quality & np.uint16(Quality.FAILED)) != 0
    validity = pa.py_buffer(np.packbits(~failed, bitorder="little")) if failed.any() else None
    silhouette = pa.FixedSizeBinaryArray.from_buffers(
        pa.binary(width), count, [validity, pa.py_buffer(np.ascontiguousarray(block.packed))], null_count=int(failed.sum())
    )
    start = plan.spec.first_clip + block.first
    columns = {
        "clip_index": pa.array(np.arange(count, dtype=np.uint64) + np.uint64(start)),
        **conditions.columns(block.first, count),
        "seed": pa.array(np.full(count, plan.spec.seed, np.uint64)),
        "silhouette": silhouette,
        "quality": pa.array(block.quality.astype(np.uint16)),
    }
    wanted = schema(width)
    return pa.table([columns[name] for name in wanted.names], schema=wanted)


def footer(plan: Plan, shard: int, first: int, clips: int, row_groups: list[str]) -> dict[str, str]:
    """The key-value metadata of a shard."""
    about = {
        "format": FORMAT, "format_version": FORMAT_VERSION, "synthetic": True, "plan_id": plan.plan_id, "shard": shard,
        "first": first, "clips": clips, "row_group_clips": ROW_GROUP, "row_groups": row_groups, "bit_order": BIT_ORDER,
        "quality_flags": {str(f.name).lower(): int(f) for f in Quality}, "plan": plan.spec.model_dump(mode="json"),
    }  # fmt: skip
    return {METADATA_KEY.decode(): canonical(about).decode(), "synthetic": "true"}


def read_footer(metadata: dict[bytes, bytes] | None, source: object) -> dict[str, Any]:
    """What :func:`footer` wrote, its types checked. Raises DamagedError or UnsupportedVersionError."""
    try:
        about = json.loads((metadata or {})[METADATA_KEY])
        kind, version, hashes = about["format"], about["format_version"], about["row_groups"]
        numbers = [about[k] for k in ("shard", "first", "clips", "row_group_clips")]
    except (KeyError, ValueError, TypeError, RecursionError) as e:
        raise DamagedError(f"{source}: no shard of this package: {e}") from e
    if kind == FORMAT and type(version) is int and version > FORMAT_VERSION:
        raise UnsupportedVersionError(f"{source}: format_version {version} is newer than {FORMAT_VERSION}; upgrade gaitcrafter-rt")
    sound = kind == FORMAT and all(type(n) is int and n >= 0 for n in numbers) and isinstance(about.get("plan_id"), str)
    sound = sound and isinstance(hashes, list) and all(isinstance(h, str) and len(h) == 64 for h in hashes)
    if not sound or about.get("synthetic") is not True:
        raise DamagedError(f"{source}: its footer is not that of a shard")
    return about
