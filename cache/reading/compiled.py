"""The loop over a batch's rows as numba compiles it: machine code that never needs the interpreter.

The functions in here are numba's dialect of Python and are not called by the interpreter. C functions are called by
their addresses, each argument a 64-bit integer (a pointer, a size or a number), as both Linux ABIs of the processors
that this is compiled for pass them. Importing this module imports numba, a quarter of a second.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

_WORD = ir.IntType(64)


def _generate_call(typing: Any, address: Any, arguments: Any) -> Any:
    """Call the C function at an address with a tuple of int64; return what it returns as int64."""
    signature = types.int64(types.int64, arguments)

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        passed = cgutils.unpack_tuple(builder, values[1])
        kind = ir.FunctionType(_WORD, [_WORD] * len(passed))
        return builder.call(builder.inttoptr(values[0], kind.as_pointer()), passed)

    return signature, generate


def _generate_word_at(typing: Any, address: Any) -> Any:
    """Return the int64 at an address."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return builder.load(builder.inttoptr(values[0], _WORD.as_pointer()), align=1)

    return types.int64(types.int64), generate


def _generate_take(typing: Any, counter: Any) -> Any:
    """Return a counter's value and add one to it, in one step among threads."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        array = cgutils.create_struct_proxy(signature.args[0])(context, builder, values[0])
        return builder.atomic_rmw("add", array.data, _WORD(1), "monotonic")

    return types.int64(counter), generate


_call: Any = intrinsic(_generate_call)
_word_at: Any = intrinsic(_generate_word_at)
_take: Any = intrinsic(_generate_take)


def _read_rows(calls: Any, layer: Any, shards: Any, counter: Any, rows: Any, out: int, flags: int) -> int:
    """Read rows, whichever the counter gives, until all are taken (-1) or one is not as it should be (its place).

    Args:
        calls: int64 addresses of preadv2 and of `row_loop._XXHASH`.
        layer: int64, `row_loop.layer_words`.
        shards: int64 [4, shards], `ShardTable.columns`.
        counter: int64 [1] the next place, shared by the threads that read these rows.
        rows: int64 [n] row numbers.
        out: address of room for n rows.
        flags: preadv2's flags.
    """
    pread, create, free, reset, update, digest, hash_of = calls
    row_nbytes, slot_nbytes, rows_per_shard, end, checked = layer[:5]
    files, offsets, hashes, used = shards
    tail = np.empty(slot_nbytes - row_nbytes, np.uint8)
    buffers, seed_of = np.empty(4, np.int64), np.empty(3, np.int64)
    buffers[1], buffers[2], buffers[3] = row_nbytes, tail.ctypes.data, len(tail)
    seed_of[0], seed_of[1] = layer[5], layer[6]
    state = _call(create, ()) if checked else 0
    failed = -1
    while failed < 0:
        place = _take(counter)
        if place >= len(rows):
            break
        row = rows[place]
        file = offset = wanted = 0
        if 0 <= row < end:
            shard, slot = row // rows_per_shard, row % rows_per_shard
            file, table, hashed = files[shard], offsets[shard], hashes[shard]
            if file and table and hashed:
                used[shard] = 1
                offset, wanted = _word_at(table + 8 * slot), _word_at(hashed + 8 * slot)
            else:
                file = 0
        buffers[0] = out + place * row_nbytes
        # A hole's offset is -1, which preadv2 would take for "from where you are".
        good = file > 0 and offset >= 0
        good = good and slot_nbytes == _call(pread, (file - 1, buffers.ctypes.data, 2, offset, flags))
        if good and checked:
            seed_of[2] = row
            seed = _call(hash_of, (seed_of.ctypes.data, 24))
            _call(reset, (state, seed))
            _call(update, (state, buffers[0], row_nbytes))
            _call(update, (state, buffers[2], buffers[3]))
            good = _call(digest, (state,)) == wanted
        if not good:
            failed = place
    if checked:
        _call(free, (state,))
    return failed


def _ask_for_rows(advise: int, advice: int, layer: Any, shards: Any, rows: Any, left: Any) -> int:
    """Ask the system to fetch rows of open shards; return how many were of others, their places in `left`.

    Args:
        advise: address of posix_fadvise.
        advice: POSIX_FADV_WILLNEED.
        layer: int64, `row_loop.layer_words`.
        shards: int64 [4, shards], `ShardTable.columns`.
        rows: int64 [n] row numbers.
        left: int64 [n] room for places.
    """
    slot_nbytes, rows_per_shard, end = layer[1:4]
    files, offsets = shards[0], shards[1]
    others = 0
    for place in range(len(rows)):
        row = rows[place]
        file = table = 0
        if 0 <= row < end:
            file, table = files[row // rows_per_shard], offsets[row // rows_per_shard]
        if file and table:
            offset = _word_at(table + 8 * (row % rows_per_shard))
            if offset >= 0:  # of a hole there is nothing to fetch
                _call(advise, (file - 1, offset, slot_nbytes, advice))
        else:
            left[others] = place
            others += 1
    return others


def compile_asking(cache: bool) -> Any:
    """Compile `_ask_for_rows`; raises as `compile_rows` does."""
    words, number = types.int64[::1], types.int64
    return njit(number(number, number, words, types.int64[:, ::1], words, words), nogil=True, cache=cache)(
        _ask_for_rows
    )


def compile_rows(cache: bool) -> Any:
    """Compile `_read_rows`, a second, or take it from numba's cache on disk.

    Raises:
        RuntimeError, OSError: numba finds no place to keep it, or can't write there.
        EOFError, UnpicklingError: what is kept there was cut short.
    """
    words = types.int64[::1]
    signature = types.int64(words, words, types.int64[:, ::1], words, words, types.int64, types.int64)
    return njit(signature, nogil=True, cache=cache)(_read_rows)
