"""Sets of shards that a test prepares."""

from jfreq.data.prepare.run import prepare
from jfreq.data.shards.reader import open_shards


def made(source, out, **options):
    """The shards of a source; what preparing says of them is what they hold."""
    info = prepare(str(source), out, progress=False, **options)
    shards = open_shards(out)
    assert shards.info == info
    assert shards.manifest_hash == info.manifest_hash
    return shards
