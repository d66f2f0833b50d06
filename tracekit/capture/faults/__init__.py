"""Records which pages of mapped files a command touches, by the kernel's page-fault events.

A read through a mapping is no call that an engine could see. The first touch of a page is a fault, and the kernel tells it
with its address (perf_event_open). `perf.py` opens the events and reads them, `maps.py` finds the file behind an address,
`log.py` keeps what was found. Linux only.
"""
