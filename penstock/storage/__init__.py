"""The one door to bytes outside this process; nothing else in the engine opens a file or URL.

lake (tables, datasets, tags, plans)  ── objects.py ──▶ obstore: ranged reads, put-if-absent
sources (raw files anywhere)          ── sources.py ──▶ disk.py: this machine
                                         (listing.py)   buckets.py: obstore; odd_keys.py
                                                        anywhere.py: fsspec
"""
