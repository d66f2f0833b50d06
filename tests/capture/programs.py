"""Real programs that read and write files in their working directory, for side-by-side captures."""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
from pathlib import Path

C_STREAMS = r"""
#include <stdio.h>
#include <string.h>
int main(void) {
    static char block[100000];
    char line[300], word[50], *grown = 0;
    size_t room = 0;
    int letter;
    FILE *f = fopen("out.bin", "w");
    for (int i = 0; i < 1000; i++) fwrite(block, 1, 100, f);
    fwrite(block, 1, 100000, f); fwrite(block, 1, 10000, f);
    fputs("hello\n", f); fprintf(f, "%d\n", 5);
    for (int i = 0; i < 5000; i++) putc('x', f);
    fclose(f);
    f = fopen("out.bin", "r");
    fread(block, 1, 10, f); fread(block, 1, 5000, f); fread(block, 1, 100000, f);
    fseek(f, 200000, SEEK_SET);
    while (fgets(line, 300, f));
    fclose(f);
    f = fopen("text.txt", "w");
    for (int i = 0; i < 3000; i++) fprintf(f, "line %d of the text\n", i);
    fclose(f);
    f = fopen("text.txt", "r");
    while (getline(&grown, &room, f) > 0);
    rewind(f); while ((letter = getc(f)) != EOF);
    rewind(f); while (fscanf(f, "%49s", word) == 1);
    fclose(f);
    f = fopen("text.txt", "r"); while (fread(block, 1, sizeof block, f) > 0); fclose(f);
    f = fopen("text.txt", "r+");
    fgets(line, 300, f); fseek(f, 0, SEEK_CUR); fputs("XX", f); fseek(f, 100, SEEK_SET); fgets(line, 300, f);
    fclose(f);
    f = fopen("left.txt", "w"); fputs("left at exit", f);
    return 0;
}
"""
CPP_STREAMS = r"""
#include <fstream>
#include <string>
int main() {
    {
        std::ofstream out("cpp.txt");
        for (int i = 0; i < 10000; i++) out << "line " << i << "\n";
        std::string big(100000, 'x');
        out.write(big.data(), big.size());
    }
    { std::ifstream in("cpp.txt"); std::string line; while (std::getline(in, line)); }
    std::ifstream in("cpp.txt", std::ios::binary);
    std::string block(50000, 0);
    in.read(&block[0], block.size()); in.seekg(1000); in.read(&block[0], 100);
}
"""
_SQL = (
    "create table t(a, b); with recursive c(x) as (select 1 union all select x + 1 from c where x < 5000)"
    " insert into t select x, x * 7 from c; select count(*) from t where b % 3 = 0; update t set a = a + 1; vacuum;"
)
_SHELL = (
    "cat tree/*/*.txt > all; head -c 100 all; tail -n 3 all; md5sum all; dd if=all of=copy bs=1000 status=none;"
    " dd if=all of=part bs=1000 skip=3 count=2 conv=notrunc status=none; split -b 20000 all part-; cmp all copy;"
    " cat < all > again; wc -l all; mv again moved; rm moved; truncate -s 10 copy"
)
_PYTHON = {
    "torch": "import torch; m = {str(i): torch.ones(1000, 50) for i in range(5)}; torch.save(m, 'm.pt'); torch.load('m.pt')",
    "numpy": """
import numpy as np
a = np.arange(100000)
np.save('a.npy', a); np.load('a.npy'); np.savez('z.npz', a=a); np.load('z.npz')['a']
a.tofile('r.bin'); np.fromfile('r.bin', np.int64, 100, offset=800); np.savetxt('t.txt', a[:1000]); np.loadtxt('t.txt')
""",
    "pandas": """
import pandas as pd
d = pd.DataFrame({'a': range(20000), 'b': ['x%d' % i for i in range(20000)]})
d.to_csv('d.csv'); pd.read_csv('d.csv'); d.to_parquet('d.parquet'); pd.read_parquet('d.parquet')
d.to_pickle('d.pkl'); pd.read_pickle('d.pkl')
""",
    "pyarrow": """
import pyarrow as pa, pyarrow.csv as c, pyarrow.dataset as ds, pyarrow.parquet as pq
t = pa.table({'a': list(range(50000))})
pq.write_table(t, 'a.parquet'); pq.read_table('a.parquet')
c.write_csv(t, 'a.csv'); c.read_csv('a.csv'); ds.dataset('a.parquet').to_table()
""",
    "h5py": """
import h5py, numpy as np
with h5py.File('d.h5', 'w') as f: f.create_dataset('a', data=np.arange(200000).reshape(2000, 100), chunks=(100, 100))
with h5py.File('d.h5') as f: f['a'][5:900:7].sum(); f['a'][:]
""",
    "webdataset": """
import webdataset as wds
with wds.TarWriter('d.tar') as sink:
    for i in range(200): sink.write({'__key__': 's%04d' % i, 'bin': bytes(2000)})
assert sum(len(s['bin']) for s in wds.WebDataset('d.tar', shardshuffle=False)) == 400000
""",
    "tf.data": """
import os
os.environ['TF_CPP_MIN_LOG_LEVEL'] = '3'
import tensorflow as tf
with tf.io.TFRecordWriter('r.tfrecord') as writer:
    for i in range(500): writer.write(bytes(1000))
open('l.txt', 'w').writelines(f'line {i}\\n' for i in range(20000))
for i in range(40): tf.io.write_file(f'{i}.bin', bytes(5000 + i))
records = tf.data.TFRecordDataset(['r.tfrecord', 'r.tfrecord'], num_parallel_reads=2)
assert sum(1 for _ in records) == 1000 and sum(1 for _ in tf.data.TextLineDataset('l.txt')) == 20000
files = tf.data.Dataset.list_files('*.bin', shuffle=False).map(tf.io.read_file, num_parallel_calls=2)
assert sum(1 for _ in files) == 40
""",
    "torch DataLoader": """
import numpy as np, torch
from torch.utils.data import DataLoader, Dataset
class Files(Dataset):
    def __len__(self): return 120
    def __getitem__(self, i): return torch.from_numpy(np.load(f's{i}.npy'))
if __name__ == '__main__':
    for i in range(120): np.save(f's{i}.npy', np.full(5000, i))
    for batch in DataLoader(Files(), batch_size=8, num_workers=2, multiprocessing_context='fork'): pass
""",
}

_MORE_PYTHON = {
    "polars": """
import polars as pl
d = pl.DataFrame({'a': range(50000), 'b': ['x%d' % i for i in range(50000)]})
d.write_parquet('d.parquet'); pl.read_parquet('d.parquet'); d.write_csv('d.csv'); pl.read_csv('d.csv')
""",
    "duckdb": """
import duckdb
c = duckdb.connect('d.db', config={'threads': 1})
c.execute("create table t as select range a, 'x' || range b from range(50000)")
c.execute("copy t to 'd.parquet'"); c.execute("select count(*), sum(a) from 'd.parquet'").fetchall(); c.close()
""",
}
_GIT = (
    "export HOME=$PWD GIT_CONFIG_NOSYSTEM=1 GIT_AUTHOR_DATE='2024-01-01T00:00:00Z' GIT_COMMITTER_DATE='2024-01-01T00:00:00Z';"
    " git init -q -b main; git config user.name a; git config user.email a@b; git config gc.auto 0; git add tree;"
    " git commit -q -m one; echo more > tree/0/0.txt; git commit -q -a -m two; git repack -q -a -d --threads=1; git log -p > log;"
    " git fsck --no-progress"
)

COMMANDS: dict[str, list[str]] = {
    "tar": ["tar", "cf", "out.tar", "tree"],
    "cp": ["cp", "-r", "tree", "copied"],
    "grep": ["grep", "-r", "needle", "tree"],
    "coreutils": ["sh", "-c", _SHELL],
    "sqlite3": ["sqlite3", "db.sqlite", _SQL],
    "C streams": ["./c-streams"],
    "C++ streams": ["./cpp-streams"],
    **{name: [sys.executable, "-c", code] for name, code in _PYTHON.items()},
}

MORE: dict[str, list[str]] = {
    "git": ["sh", "-c", _GIT],
    **{name: [sys.executable, "-c", code] for name, code in _MORE_PYTHON.items()},
}
"""Programs whose names or order of calls differ from run to run."""
ALL = COMMANDS | MORE
PYTHON = (*_PYTHON, *_MORE_PYTHON)
_PACKAGES = {"tf.data": "tensorflow", "torch DataLoader": "torch"}
WITH_LINEAGE = ("torch DataLoader",)


def missing(name: str) -> str | None:
    """Why the program cannot be run here, or None."""
    needed = {"C streams": "gcc", "C++ streams": "g++", "coreutils": "dd", "git": "git"}.get(
        name, ALL[name][0]
    )
    if shutil.which(needed) is None:
        return f"{needed} is not installed"
    if (
        name in PYTHON
        and subprocess.run(
            [sys.executable, "-c", f"import {_PACKAGES.get(name, name)}"], capture_output=True
        ).returncode
    ):
        return f"{name} is not installed"
    return None


def prepare(folder: Path, name: str) -> None:
    """Make what the program reads, the same every time."""
    draw = random.Random(5)
    for index in range(3):
        (folder / "tree" / str(index)).mkdir(parents=True)
        for part in range(3):
            body = draw.randbytes(3000 * (part + 1) * (index + 1)) + b"\nneedle\n"
            (folder / "tree" / str(index) / f"{part}.txt").write_bytes(body)
    if name == "C streams":
        (folder / "p.c").write_text(C_STREAMS)
        subprocess.run(
            ["gcc", "-O2", "-w", "-D_FORTIFY_SOURCE=2", "-o", folder / "c-streams", folder / "p.c"],
            check=True,
        )
    if name == "C++ streams":
        (folder / "p.cpp").write_text(CPP_STREAMS)
        subprocess.run(["g++", "-O2", "-o", folder / "cpp-streams", folder / "p.cpp"], check=True)
