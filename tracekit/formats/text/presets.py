"""The mappings of well-known public traces, by name: `map_columns="msr"`."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["FORMATS", "PRESETS", "Preset"]


@dataclass(frozen=True, slots=True)
class Preset:
    """One public form of trace.

    `fields` counts the fields of a line without a header (0: the log has a header, or is JSON), of which
    the last `optional` may be missing. `base` is what names are placed under.
    """

    format: str
    about: str
    columns: str
    base: str
    separator: str | None = None
    fields: int = 0
    optional: int = 0
    ops: str = ""


_TECTONIC_OPS = (
    "getchunkdata.notinitialized=read,getchunkdata.permanent=read,getchunkdata.temporary=read,"
    "putchunk.notinitialized=write,putchunk.permanent=write,putchunk.temporary=write,"
    "1=read,2=read,3=write,4=write,5=read,6=write,100=none"
)

PRESETS = {
    "alibaba": Preset(
        "csv",
        "Alibaba block traces of 2020: device, R or W, offset, length, us",
        "uri=#1,op=#2,offset=#3,len=#4,t_submit=#5:us",
        "block://alibaba/",
        ",",
        5,
    ),
    "baleen": Preset(
        "csv",
        "Meta Tectonic traces as released with Baleen: block, offset, size, s, op code, ...",
        "uri=#1,offset=#2,len=#3,t_submit=#4:s,op=#5",
        "block://tectonic/",
        " ",
        11,
        6,
        _TECTONIC_OPS,
    ),
    "cloudphysics": Preset(
        "csv",
        "CloudPhysics sample of libCacheSim: column 2 s, 4 bytes, 5 object; it names no op: read",
        "t_submit=#2:s,uri=#5,len=#4,op='read'",
        "block://cloudphysics/",
        ",",
        5,
    ),
    "ibm-cos": Preset(
        "csv",
        "IBM Cloud Object Storage traces (SNIA 36305): ms, request, object[, size[, first, last byte]]",
        "t_submit=#1:ms,op=#2,uri=#3,object_size=#4,offset=#5,len=#6:last|#4",
        "s3://ibm-cos/",
        " ",
        6,
        3,
        "rest.get.object=read,rest.put.object=put,rest.head.object=stat,rest.delete.object=delete,rest.copy.object=none",
    ),
    "kvikio": Preset(
        "jsonl",
        "KvikIO's reads, with KVIKIO_LOG_LEVEL=TRACE and KVIKIO_LOG_FORMAT=JSON",
        "t_submit=start,latency=end:end-ns,uri=source,op=purpose|event,offset=offset,len=size,bytes=bytesRead,"
        "worker=threadId:name,error=status",
        "file:///",
        ops="read=read,metadata=stat,log=none",
    ),
    "mlperf-kv": Preset(
        "csv",
        "MLPerf Storage KV-cache benchmark with --io-trace-log: Timestamp (s), Operation, Object_Size_Bytes, Tier, Key",
        "t_submit=Timestamp:s,op=Operation,len=Object_Size_Bytes,uri=Tier+Key",
        "kv://mlperf/",
        ",",
        ops="read=get,write=put,evict=delete,delete=delete",
    ),
    "mqsim": Preset(
        "csv",
        "MQSim workloads: ns, device, sector, sectors, 0 write 1 read",
        "t_submit=#1,uri=#2,offset=#3:sectors,len=#4:sectors,op=#5:w0r1",
        "block://mqsim/",
        " ",
        5,
    ),
    "msr": Preset(
        "csv",
        "MSR Cambridge block traces: filetime, host, disk, type, offset, size, response in 100 ns",
        "t_submit=#1:filetime,uri=#2+#3,op=#4,offset=#5,len=#6,latency=#7:100ns",
        "block://msr/",
        ",",
        7,
    ),
    "tectonic": Preset(
        "csv",
        "Meta Tectonic storage traces of CacheLib's release, with a header: op_time (s), block_id, io_size, io_offset, ...",
        "t_submit=op_time:s,uri=block_id+rs_shard_id,offset=io_offset,len=io_size,op=op_name",
        "block://tectonic/",
        ",",
        ops=_TECTONIC_OPS,
    ),
    "tencent": Preset(
        "csv",
        "Tencent CBS traces: s, sector, sectors, 0 read 1 write, volume",
        "t_submit=#1:s,offset=#2:sectors,len=#3:sectors,op=#4:r0w1,uri=#5",
        "block://tencent/",
        ",",
        5,
    ),
}
"""By name."""
FORMATS = {"mooncake": "Mooncake's request traces: a format of its own, because a line stands for many ops"}
"""Public traces that no mapping can read, and what reads them."""
