"""Runs extractions in separate processes, which may be killed; each prints acknowledged rows at once.

Reads the arguments of one extraction a line, as a JSON list, from standard input, and forks a process for each: a
fresh process without the time that imports take, since this one has made a cache of one image before. Lines of JSON on
standard output: ``{"pid": …}``; ``{"committed": [hashes]}`` when a commit was acknowledged; ``{"packing": true}``; at
the end ``{"ledger": …}`` or ``{"error": …}``, then ``{"status": …}``.
"""

import argparse
import gc
import json
import os
import signal
import sys
import tempfile
import threading
import time
import traceback
from pathlib import Path


def options_of(arguments):
    parser = argparse.ArgumentParser()
    parser.add_argument("images", type=Path)
    parser.add_argument("cache", type=Path)
    parser.add_argument("--kill", type=int, metavar="STEP")
    parser.add_argument("--half", action="store_true", help="kill when the step is half done")
    parser.add_argument("--slow", type=float, default=0.0, metavar="SECONDS", help="before every step and batch")
    parser.add_argument("--first", type=float, metavar="SECONDS", help="until the first commit; others wait for time")
    parser.add_argument("--lifetime", type=float, metavar="SECONDS", help="from the first pass to the kill")
    parser.add_argument("--pack-after", type=Path, metavar="FILE", help="pack when this file exists")
    parser.add_argument("--user", type=int, help="give up the rights of the superuser")
    parser.add_argument("--part-rows", type=int, metavar="N")
    parser.add_argument("--backbone", default="fake")
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--lies", nargs="*", default=[], help="what the file system does not do as it should")
    return parser.parse_args(arguments)


def extract_and_say(options):
    """Run one extraction; return the exit status: 0, or 3 for an error of featurecache."""
    import file_systems

    import featurecache.run.committer
    import featurecache.run.manifest_run
    import featurecache.run.units
    import featurecache.storage.publish
    from featurecache import FeatureCacheError, extract
    from featurecache.backbones.fake import FakeBackbone
    from featurecache.run.store import Store

    class SlowBackbone(FakeBackbone):
        is_first = True

        def forward(self, images):
            if self.is_first and options.lifetime is not None:
                threading.Timer(options.lifetime, os.kill, (os.getpid(), signal.SIGKILL)).start()
            self.is_first = False
            time.sleep(options.slow)
            return super().forward(images)

    commit, pack = Store.commit, featurecache.run.manifest_run.pack

    def reporting(store, batches, file_records, environment):
        commit(store, batches, file_records, environment)
        say(committed=[content for contents, _ in batches for content in contents])

    def held(*args, **keywords):
        say(packing=True)
        while options.pack_after and not options.pack_after.exists():
            time.sleep(0.01)
        return pack(*args, **keywords)

    Store.commit, featurecache.run.manifest_run.pack, featurecache.run.units.SHARD_ROWS = reporting, held, 24
    if options.first is not None:
        featurecache.run.units.SHARD_ROWS, featurecache.run.committer.FIRST_SECONDS = 1024, options.first
    if options.kill is not None:
        featurecache.storage.publish.FILE_SYSTEM = file_systems.KillingFileSystem(options.kill, half=options.half)
    elif options.slow and options.first is None:
        featurecache.storage.publish.FILE_SYSTEM = file_systems.SlowFileSystem(options.slow)
    if options.lies:
        file_systems.lie(options.lies)
    if options.user is not None:
        os.setgroups([])
        os.setgid(options.user)
        os.setuid(options.user)
    if options.backbone == "fake":
        network = {"backbone": SlowBackbone()}
    else:
        from featurecache.cli.console.quick_keras import start_keras_quickly

        start_keras_quickly()
        network = {"backbone": options.backbone, "weights": "random:0", "taps": ["avg_pool"], "engine": options.engine}
    ledger = []
    try:
        extract(
            options.images,
            options.cache,
            **network,
            batch_size=8,
            workers=2,
            part_rows=options.part_rows,
            progress=lambda progress: ledger.append(progress.to_dict()),
        )
    except FeatureCacheError as e:
        say(error=f"{type(e).__name__}: {e}")
        return 3
    say(ledger=ledger[-1])
    return 0


def say(**what):
    os.write(1, json.dumps(what).encode() + b"\n")


def import_all():
    """Import what runs import, once, so that every run starts at once: make a cache of one image."""
    from PIL import Image

    from featurecache import extract
    from featurecache.backbones.fake import FakeBackbone

    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "images").mkdir()
        Image.new("RGB", (8, 8)).save(Path(folder) / "images" / "one.png")
        extract(Path(folder) / "images", Path(folder) / "c.h5", backbone=FakeBackbone())
    assert threading.active_count() == 1
    gc.freeze()  # no run looks through what is there already, and so copies its memory


def main():
    import_all()
    for line in sys.stdin:
        options = options_of(json.loads(line))
        pid = os.fork()
        if not pid:
            status = 1
            try:
                status = extract_and_say(options)
            except BaseException:  # noqa: BLE001 - a process that was forked must not return from here
                traceback.print_exc()
            finally:
                os._exit(status)
        say(pid=pid)
        say(status=os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))


if __name__ == "__main__":
    main()
