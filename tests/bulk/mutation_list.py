"""Every fsync, link and checksum of the protocol, and what it is to be without it (``mutations.py``)."""

from __future__ import annotations

from typing import NamedTuple

CRASH, DURABLE, COMMIT = "test_crash.py", "test_durability.py", "test_commit.py"
FORGED = "test_forgeries.py"
VERIFY, PLAN, FORMAT, JOB, FAULTS = "test_verify.py", "test_plan.py", "test_format.py", "test_job.py", "test_faults.py"


class Mutation(NamedTuple):
    """``text`` in ``file`` of ``gaitcrafter_rt/bulk`` becomes ``instead``; then ``tests`` (files of this folder) must fail."""

    name: str
    file: str
    text: str
    instead: str
    tests: tuple[str, ...]


def _m(name: str, file: str, text: str, instead: str, *tests: str) -> Mutation:
    return Mutation(name, file, text, instead, tests)


MUTATIONS = (
    # One file's way into the job.
    _m("fsync: a file before its link", "commit.py", "            fs.sync_file(raw)\n", "", CRASH),
    _m(
        "fsync: the folder after a link",
        "commit.py",
        'committing(target, "unlinked")\n    fs.sync_folder(target.parent)\n',
        'committing(target, "unlinked")\n',
        CRASH,
    ),
    _m("fsync: a file that was there already", "commit.py", "                fs.sync_path(target)\n", "", DURABLE),
    _m(
        "fsync: the parent of a new folder",
        "commit.py",
        "        fs.mkdir(path)\n        fs.sync_folder(path.parent)\n",
        "        fs.mkdir(path)\n",
        DURABLE,
        CRASH,
    ),
    _m("link: left out", "commit.py", "            fs.link(temporary, target)\n", "            pass\n", COMMIT),
    _m(
        "link: one that overwrites",
        "commit.py",
        "            fs.link(temporary, target)\n",
        "            fs.replace(temporary, target)\n",
        COMMIT,
    ),
    _m(
        "link: before the data is synced",
        "commit.py",
        "            fs.sync_file(raw)\n",
        "            fs.link(temporary, target)\n            fs.sync_file(raw)\n",
        CRASH,
    ),
    _m(
        "link: the final name from the start",
        "commit.py",
        "    temporary = target.with_name(temporary_name())\n",
        "    temporary = target\n",
        COMMIT,
    ),
    _m(
        "link: errors taken for success",
        "commit.py",
        "        except FileExistsError:\n            try:\n",
        "        except OSError:\n            try:\n",
        CRASH,
        COMMIT,
    ),
    # What is moved out of the way, or kept beside.
    _m(
        "fsync: where a file was moved to",
        "commit.py",
        "        fs.sync_folder(folder)\n    fs.sync_folder(path.parent)\n",
        "        pass\n    fs.sync_folder(path.parent)\n",
        DURABLE,
        CRASH,
    ),
    _m(
        "fsync: where a file was moved from",
        "commit.py",
        "        fs.sync_folder(folder)\n    fs.sync_folder(path.parent)\n",
        "        fs.sync_folder(folder)\n",
        CRASH,
    ),
    _m(
        "fsync: where a damaged file is kept",
        "commit.py",
        "path.name, fs.link)\n    fs.sync_folder(folder)\n",
        "path.name, fs.link)\n",
        CRASH,
    ),
    _m("link: a damaged file not kept", "commit.py", "                keep(fs, target, root / DAMAGED)\n", "", COMMIT),
    _m(
        "link: a damaged file not replaced",
        "commit.py",
        "                fs.replace(temporary, target)\n",
        "                pass\n",
        COMMIT,
    ),
    # What a dead process left, made durable by the next one.
    _m(
        "fsync: folders above the job",
        "durability.py",
        "            fs.sync_folder(path)\n        except OSError as e:\n",
        "            pass\n        except OSError as e:\n",
        CRASH,
    ),
    _m(
        "fsync: extents of others", "durability.py", "(folder.extents, *aside, folder.receipts)", "(*aside, folder.receipts)", CRASH
    ),
    _m(
        "fsync: what others moved away",
        "durability.py",
        "(folder.extents, *aside, folder.receipts)",
        "(folder.extents, folder.receipts)",
        CRASH,
    ),
    _m(
        "fsync: receipts that others moved away",
        "durability.py",
        "(folder.extents, *aside, folder.receipts)",
        "(folder.extents, *aside)",
        DURABLE,
    ),
    _m("fsync: receipts of others, at the end of a run", "job.py", "        settle_receipts(fs, self._folder)\n", "", DURABLE),
    _m(
        "fsync: receipts of others, shard by shard",
        "worker.py",
        "            settle_receipts(self._fs, self._folder)",
        "            pass",
        DURABLE,
    ),
    _m(
        "fsync: the job's own folders",
        "durability.py",
        "        fs.mkdir(path)\n    fs.sync_folder(folder.root)\n",
        "        fs.mkdir(path)\n",
        DURABLE,
        CRASH,
    ),
    _m("fsync: all of it, in a run", "job.py", "        settle(fs, self._folder)\n", "", CRASH),
    _m("fsync: all of it, shard by shard", "worker.py", "            settle(self._fs, self._folder)\n", "", CRASH),
    _m(
        "fsync: the job's own folders, shard by shard", "worker.py", "            make_folders(self._fs, self._folder)\n", "", CRASH
    ),
    _m("fsync: a shard that is given a receipt", "writer.py", "        fs.sync_path(path)\n", "", DURABLE),
    _m(
        "fsync: the folder of a shard that is given a receipt",
        "writer.py",
        "        fs.sync_path(path)\n        fs.sync_folder(path.parent)\n",
        "        fs.sync_path(path)\n",
        DURABLE,
    ),
    _m(
        "fsync: what a finished job removed",
        "job.py",
        "                self._fs.rmdir(path)\n            self._fs.sync_folder(self._folder.root)\n",
        "                self._fs.rmdir(path)\n",
        CRASH,
    ),
    # The real file system.
    _m(
        "fsync: the system call for a file",
        "filesystem.py",
        "        file.flush()\n        os.fsync(file.fileno())\n",
        "        file.flush()\n",
        DURABLE,
    ),
    _m(
        "fsync: buffers not flushed before it",
        "filesystem.py",
        "        file.flush()\n        os.fsync(file.fileno())\n",
        "        os.fsync(file.fileno())\n",
        DURABLE,
    ),
    _m(
        "fsync: the system call for a path",
        "filesystem.py",
        "        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)\n        try:\n            os.fsync(fd)\n",
        "        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)\n        try:\n            pass\n",
        DURABLE,
    ),
    _m(
        "fsync: the system call for a folder",
        "filesystem.py",
        "os.O_DIRECTORY | os.O_CLOEXEC)\n        try:\n            os.fsync(fd)\n",
        "os.O_DIRECTORY | os.O_CLOEXEC)\n        try:\n            pass\n",
        DURABLE,
    ),
    _m(
        "link: the system call overwrites",
        "filesystem.py",
        "            os.link(source, target)\n",
        "            os.replace(source, target)\n",
        DURABLE,
    ),
    _m(
        "link: a rename that overwrites",
        "filesystem.py",
        "_RENAME_NOREPLACE, _AT_FDCWD = 1, -100",
        "_RENAME_NOREPLACE, _AT_FDCWD = 0, -100",
        DURABLE,
    ),
    _m("link: a temporary file that overwrites", "filesystem.py", "os.O_CREAT | os.O_EXCL |", "os.O_CREAT | os.O_TRUNC |", DURABLE),
    # Checksums of documents and blocks.
    _m("checksum: documents", "documents.py", "        intact = seal(body) == data\n", "        intact = True\n", VERIFY),
    _m(
        "checksum: the plan's id",
        "plan.py",
        '    if plan.plan_id != hash_of(plan.spec.model_dump(mode="json")):\n',
        "    if False:\n",
        FORGED,
    ),
    _m(
        "checksum: a table of conditions",
        "opening.py",
        "        if hash_file(fs, path).sha256 != sha256:\n",
        "        if False:\n",
        PLAN,
    ),
    _m("checksum: the head of a block", "blocks.py", "checksum == hash_of(header) and", "", FORGED),
    _m(
        "checksum: the clips of a block",
        "blocks.py",
        "    if content_digest(quality, packed) != content:\n",
        "    if False:\n",
        CRASH,
    ),
    _m(
        "checksum: two blocks of the same clips",
        "blocks.py",
        "        if other.digest() != digest:\n",
        "        if False:\n",
        FAULTS,
    ),
    _m(
        "checksum: what a block belongs to",
        "blocks.py",
        "    if not sound or who != (plan_id, first, clips, clip_bytes):\n",
        "    if not sound:\n",
        FORGED,
    ),
    # Checksums of shards and receipts.
    _m("checksum: pages written without", "format.py", '"write_page_checksum": True', '"write_page_checksum": False', FORMAT),
    _m(
        "checksum: pages read without",
        "reader.py",
        "page_checksum_verification=True, pre_buffer=False, thrift",
        "page_checksum_verification=False, pre_buffer=False, thrift",
        VERIFY,
        FORMAT,
    ),
    _m(
        "checksum: row groups against the footer",
        "reader.py",
        '        if digest != file.about["row_groups"][group]:\n',
        "        if False:\n",
        VERIFY,
        FORMAT,
    ),
    _m(
        "checksum: the footer's plan",
        "reader.py",
        '        if hash_of(self.about["plan"]) != self.about["plan_id"]:\n',
        "        if False:\n",
        FORGED,
    ),
    _m(
        "checksum: whose shard it is",
        "reader.py",
        "        if who != (plan.plan_id, shard.number, shard.first, shard.clips):\n",
        "        if False:\n",
        FORGED,
    ),
    _m(
        "checksum: whose receipt it is",
        "receipts.py",
        "    if who != (plan.plan_id, shard.number, shard.first, shard.clips):\n",
        "    if False:\n",
        VERIFY,
        CRASH,
    ),
    _m(
        "checksum: a receipt that vouches for another file",
        "receipts.py",
        "        if there.sha256 != receipt.sha256:\n",
        "        if False:\n",
        FORGED,
    ),
    _m(
        "checksum: a shard against its receipt",
        "verify.py",
        "    if digest != (receipt.sha256, receipt.bytes):\n",
        "    if False:\n",
        VERIFY,
    ),
    _m(
        "checksum: a receipt's hashes against each other",
        "verify.py",
        "    if receipt.content_sha256 != content_of(receipt.row_groups):\n",
        "    if False:\n",
        FORGED,
    ),
    _m(
        "checksum: a footer against its receipt",
        "verify.py",
        '            if file.about["row_groups"] != receipt.row_groups or',
        "            if",
        FORGED,
    ),
    _m(
        "checksum: clips against their receipt",
        "verify.py",
        "    if (facts.row_groups, facts.quality, facts.failed) != (receipt.row_groups, receipt.quality, failed):\n",
        "    if False:\n",
        FORGED,
    ),
    _m("checksum: a shard that is gone", "receipts.py", "            if entry is None:\n", "            if False:\n", CRASH),
    _m(
        "checksum: a shard's size", "receipts.py", "            if entry.size != receipt.bytes:\n", "            if False:\n", CRASH
    ),
    _m(
        "checksum: a shard that is given a receipt",
        "writer.py",
        "    facts = check_shard(fs, path, plan, shard, conditions)\n    digest",
        "    facts = check_shard.__globals__['Facts']([], {}, [])\n    digest",
        CRASH,
    ),
    _m(
        "checksum: two shards of the same clips",
        "writer.py",
        "        if other.row_groups != totals.row_groups:\n",
        "        if False:\n",
        FAULTS,
    ),
    _m(
        "checksum: two shards compared at all",
        "writer.py",
        "        if there.sha256 == mine.sha256:\n",
        "        if True:\n",
        FAULTS,
    ),
    _m(
        "checksum: labels against the plan",
        "reader.py",
        "        if not table[name].combine_chunks().equals(wanted[name]):\n",
        "        if False:\n",
        VERIFY,
    ),
    _m(
        "checksum: clip indices",
        "reader.py",
        '        if not np.array_equal(table["clip_index"].to_numpy(), numbers):\n',
        "        if False:\n",
        FORGED,
    ),
    _m(
        "checksum: quality flags",
        "reader.py",
        "        if not np.array_equal(quality.assess(packed[there], file.shape), told[there]):\n",
        "        if False:\n",
        FORGED,
    ),
)
