//! Copies between memory that someone else may be writing: no alignment asked, regions may not overlap.
//!
//! What is copied while the other side writes is some mixture of old and new bytes; which one is not
//! specified. The caller validates its private copy, never the shared bytes.

/// Copies `len` bytes from `src` to `dst`.
///
/// # Safety
/// `src` is readable and `dst` writable for `len` bytes (mapped, inside one allocation or mapping each), and
/// they do not overlap. Other threads or processes may access both meanwhile, atomically or from outside
/// the program.
#[cfg(all(target_arch = "x86_64", not(miri)))]
#[inline(always)]
pub unsafe fn copy_shared(dst: *mut u8, src: *const u8, len: usize) {
    use std::arch::asm;
    /// From this length on a copy is long, in bytes: what it takes to begin one is paid back (docs/performance.md).
    const LONG_FROM: usize = 768;

    if len >= LONG_FROM {
        // SAFETY: the caller vouches for both ranges.
        return unsafe { copy_long(dst, src, len) };
    }
    if len >= 16 {
        // SAFETY: `len` is at least 16.
        return unsafe { copy_moves(dst, src, len) };
    }
    // SAFETY: two moves of the largest power of two not above `len`, at the start and ending at the end.
    unsafe {
        if len >= 8 {
            asm!("mov {a}, qword ptr [{s}]", "mov {b}, qword ptr [{s} + {n} - 8]",
                 "mov qword ptr [{d}], {a}", "mov qword ptr [{d} + {n} - 8], {b}",
                 a = out(reg) _, b = out(reg) _, s = in(reg) src, d = in(reg) dst, n = in(reg) len,
                 options(nostack, preserves_flags));
        } else if len >= 4 {
            asm!("mov {a:e}, dword ptr [{s}]", "mov {b:e}, dword ptr [{s} + {n} - 4]",
                 "mov dword ptr [{d}], {a:e}", "mov dword ptr [{d} + {n} - 4], {b:e}",
                 a = out(reg) _, b = out(reg) _, s = in(reg) src, d = in(reg) dst, n = in(reg) len,
                 options(nostack, preserves_flags));
        } else {
            for i in 0..len {
                asm!("mov {a}, byte ptr [{s}]", "mov byte ptr [{d}], {a}",
                     a = out(reg_byte) _, s = in(reg) src.add(i), d = in(reg) dst.add(i),
                     options(nostack, preserves_flags));
            }
        }
    }
}

/// A long copy, of 192 bytes at least. Out of line, since a few instructions more do not count here, and do where copies are short.
///
/// # Safety
/// As for [`copy_shared`], and `len` is at least 192.
#[cfg(all(target_arch = "x86_64", not(miri)))]
#[inline(never)]
unsafe fn copy_long(dst: *mut u8, src: *const u8, len: usize) {
    // The string move is far slower where source and destination do not lie alike in their cache lines, as the pieces of a long
    // frame do that begins behind a header.
    // SAFETY: the caller vouches for both ranges and the length; the processor has what was asked for.
    unsafe {
        if (dst.addr() ^ src.addr()).is_multiple_of(LINE) {
            string_move(dst, src, len);
        } else if std::arch::is_x86_feature_detected!("avx2") {
            wide_moves(dst, src, len);
        } else {
            copy_moves(dst, src, len);
        }
    }
}

/// Bytes of a cache line.
#[cfg(all(target_arch = "x86_64", not(miri)))]
const LINE: usize = 64;

/// A copy of at least 192 bytes by 32-byte moves whose stores never cross a cache line, but for the first and the last ones.
///
/// # Safety
/// As for [`copy_shared`]; `len` is at least 192, and the processor has AVX2.
#[cfg(all(target_arch = "x86_64", not(miri)))]
#[target_feature(enable = "avx2")]
unsafe fn wide_moves(dst: *mut u8, src: *const u8, len: usize) {
    /// Bytes of a step.
    const STEP: usize = 128;
    // What lies before the first whole line of the destination is 64 bytes at most, so `len - skip` is at least a step.
    let skip = LINE - dst.addr() % LINE;
    let last = len - STEP;
    // SAFETY: the first line, steps that begin between `skip` and `last`, and the step at `last` lie inside both ranges.
    unsafe {
        copy_ends(dst, src, LINE);
        std::arch::asm!(
            "2:",
            "vmovdqu {a}, ymmword ptr [{s} + {i}]", "vmovdqu {b}, ymmword ptr [{s} + {i} + 32]",
            "vmovdqu {c}, ymmword ptr [{s} + {i} + 64]", "vmovdqu {e}, ymmword ptr [{s} + {i} + 96]",
            "vmovdqu ymmword ptr [{d} + {i}], {a}", "vmovdqu ymmword ptr [{d} + {i} + 32], {b}",
            "vmovdqu ymmword ptr [{d} + {i} + 64], {c}", "vmovdqu ymmword ptr [{d} + {i} + 96], {e}",
            "add {i}, 128", "cmp {i}, {last}", "jb 2b",
            "vmovdqu {a}, ymmword ptr [{s} + {last}]", "vmovdqu {b}, ymmword ptr [{s} + {last} + 32]",
            "vmovdqu {c}, ymmword ptr [{s} + {last} + 64]", "vmovdqu {e}, ymmword ptr [{s} + {last} + 96]",
            "vmovdqu ymmword ptr [{d} + {last}], {a}", "vmovdqu ymmword ptr [{d} + {last} + 32], {b}",
            "vmovdqu ymmword ptr [{d} + {last} + 64], {c}", "vmovdqu ymmword ptr [{d} + {last} + 96], {e}",
            "vzeroupper",
            a = out(ymm_reg) _, b = out(ymm_reg) _, c = out(ymm_reg) _, e = out(ymm_reg) _,
            i = inout(reg) skip => _, last = in(reg) last, s = in(reg) src, d = in(reg) dst,
            options(nostack));
    }
}

/// A copy by the processor's string move. Out of line, so that counts of instructions can leave it out: each of its bytes
/// would be one.
///
/// # Safety
/// As for [`copy_shared`].
#[cfg(all(target_arch = "x86_64", not(miri)))]
#[inline(never)]
unsafe fn string_move(dst: *mut u8, src: *const u8, len: usize) {
    // SAFETY: the caller vouches for both ranges; the direction flag is clear by the ABI.
    unsafe {
        std::arch::asm!("rep movsb", inout("rcx") len => _, inout("rsi") src => _, inout("rdi") dst => _,
             options(nostack, preserves_flags));
    }
}

/// A copy of at least 16 bytes by 16-byte moves: the front and the back, which may overlap in the middle (both
/// then write the same source bytes), and for more than 128 bytes a loop before the back.
///
/// # Safety
/// As for [`copy_shared`], and `len` is at least 16.
#[cfg(all(target_arch = "x86_64", not(miri)))]
#[inline(always)]
unsafe fn copy_moves(dst: *mut u8, src: *const u8, len: usize) {
    use std::arch::asm;

    // SAFETY: each case touches `[0, k)` and `[len - k, len)` with `k <= len`; the loop's blocks of 64 begin
    // before `len - 64`, and the last 64 bytes are there where `len` is above 64.
    unsafe {
        if len <= 32 {
            asm!("movdqu {a}, xmmword ptr [{s}]", "movdqu {b}, xmmword ptr [{s} + {n} - 16]",
                 "movdqu xmmword ptr [{d}], {a}", "movdqu xmmword ptr [{d} + {n} - 16], {b}",
                 a = out(xmm_reg) _, b = out(xmm_reg) _, s = in(reg) src, d = in(reg) dst, n = in(reg) len,
                 options(nostack, preserves_flags));
            return;
        }
        if len <= 64 {
            return copy_ends(dst, src, len);
        }
        if len <= 128 {
            copy_ends(dst, src, 64);
        } else {
            let last = len - 64;
            asm!("2:",
                 "movdqu {a}, xmmword ptr [{s} + {i}]", "movdqu {b}, xmmword ptr [{s} + {i} + 16]",
                 "movdqu {c}, xmmword ptr [{s} + {i} + 32]", "movdqu {e}, xmmword ptr [{s} + {i} + 48]",
                 "movdqu xmmword ptr [{d} + {i}], {a}", "movdqu xmmword ptr [{d} + {i} + 16], {b}",
                 "movdqu xmmword ptr [{d} + {i} + 32], {c}", "movdqu xmmword ptr [{d} + {i} + 48], {e}",
                 "add {i}, 64", "cmp {i}, {last}", "jb 2b",
                 a = out(xmm_reg) _, b = out(xmm_reg) _, c = out(xmm_reg) _, e = out(xmm_reg) _,
                 i = inout(reg) 0usize => _, last = in(reg) last, s = in(reg) src, d = in(reg) dst,
                 options(nostack));
        }
        // The rest lies inside the last 64 bytes.
        copy_ends(dst.add(len - 64), src.add(len - 64), 64);
    }
}

/// A copy of 32 to 64 bytes: the first 32 and the last 32.
///
/// # Safety
/// As for [`copy_shared`], and `len` is 32 to 64.
#[cfg(all(target_arch = "x86_64", not(miri)))]
#[inline(always)]
unsafe fn copy_ends(dst: *mut u8, src: *const u8, len: usize) {
    // SAFETY: `[0, 32)` and `[len - 32, len)` lie inside.
    unsafe {
        std::arch::asm!(
            "movdqu {a}, xmmword ptr [{s}]", "movdqu {b}, xmmword ptr [{s} + 16]",
            "movdqu {c}, xmmword ptr [{s} + {n} - 32]", "movdqu {e}, xmmword ptr [{s} + {n} - 16]",
            "movdqu xmmword ptr [{d}], {a}", "movdqu xmmword ptr [{d} + 16], {b}",
            "movdqu xmmword ptr [{d} + {n} - 32], {c}", "movdqu xmmword ptr [{d} + {n} - 16], {e}",
            a = out(xmm_reg) _, b = out(xmm_reg) _, c = out(xmm_reg) _, e = out(xmm_reg) _,
            s = in(reg) src, d = in(reg) dst, n = in(reg) len, options(nostack, preserves_flags));
    }
}

/// Copies `len` bytes from `src` to `dst`.
///
/// # Safety
/// As for the x86-64 form: both ranges valid, no overlap; others may access both meanwhile.
#[cfg(not(all(target_arch = "x86_64", not(miri))))]
#[inline]
pub unsafe fn copy_shared(dst: *mut u8, src: *const u8, len: usize) {
    use std::sync::atomic::{AtomicU8, AtomicU64, Ordering::Relaxed};
    let mut at = 0;
    if src.align_offset(8) == dst.align_offset(8) {
        let head = src.align_offset(8).min(len);
        // SAFETY: inside both ranges, aligned for the type used, and valid for atomic access.
        unsafe {
            while at < head {
                AtomicU8::from_ptr(dst.add(at))
                    .store(AtomicU8::from_ptr(src.add(at).cast_mut()).load(Relaxed), Relaxed);
                at += 1;
            }
            while at + 8 <= len {
                let word = AtomicU64::from_ptr(src.add(at).cast_mut().cast()).load(Relaxed);
                AtomicU64::from_ptr(dst.add(at).cast()).store(word, Relaxed);
                at += 8;
            }
        }
    }
    // SAFETY: single bytes inside both ranges.
    unsafe {
        while at < len {
            AtomicU8::from_ptr(dst.add(at))
                .store(AtomicU8::from_ptr(src.add(at).cast_mut()).load(Relaxed), Relaxed);
            at += 1;
        }
    }
}

/// Copies private bytes to `dst`.
///
/// # Safety
/// `dst` is writable for `data.len()` bytes; others may access it meanwhile.
#[inline(always)]
pub unsafe fn copy_in(dst: *mut u8, data: &[u8]) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    // SAFETY: both ranges are valid, and private bytes do not overlap shared ones.
    unsafe {
        copy_shared(dst, data.as_ptr(), data.len());
    }
    #[cfg(not(all(target_arch = "x86_64", not(miri))))]
    {
        use std::sync::atomic::{AtomicU8, AtomicU64, Ordering::Relaxed};
        let (head, rest) = data.split_at(dst.align_offset(8).min(data.len()));
        let (words, tail) = rest.as_chunks::<8>();
        // SAFETY: inside the range, and the words are aligned. The private bytes are read plainly: an atomic
        // load would need write permission to them.
        unsafe {
            for (at, &byte) in head.iter().enumerate() {
                AtomicU8::from_ptr(dst.add(at)).store(byte, Relaxed);
            }
            let start = dst.add(head.len());
            for (at, &word) in words.iter().enumerate() {
                AtomicU64::from_ptr(start.add(at * 8).cast()).store(u64::from_ne_bytes(word), Relaxed);
            }
            let start = start.add(words.len() * 8);
            for (at, &byte) in tail.iter().enumerate() {
                AtomicU8::from_ptr(start.add(at)).store(byte, Relaxed);
            }
        }
    }
}

/// Sets `len` bytes from `dst` on to `byte`.
///
/// # Safety
/// `dst` is writable for `len` bytes; others may access it meanwhile.
pub unsafe fn fill_shared(dst: *mut u8, byte: u8, len: usize) {
    let chunk = [byte; 256];
    let mut at = 0;
    while at < len {
        let now = (len - at).min(chunk.len());
        // SAFETY: `at + now <= len`.
        unsafe { copy_in(dst.add(at), &chunk[..now]) };
        at += now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_length_and_offset_is_copied_exactly() {
        let lens: Vec<usize> = if cfg!(miri) {
            vec![0, 1, 7, 8, 15, 16, 17, 33, 64]
        } else {
            (0..200).chain([767, 768, 769, 1500, 4096, 65_549]).collect()
        };
        for len in lens {
            for (src_skip, dst_skip) in [(0, 0), (1, 0), (3, 5), (8, 8), (7, 7)] {
                let mut source: Vec<u8> = (0..len + 16).map(|i| (i * 7 + 3) as u8).collect();
                let mut target = vec![0xAAu8; len + 32];
                // SAFETY: both vectors are longer than skip + len, and distinct; raw pointers from `&mut`.
                unsafe {
                    copy_shared(target.as_mut_ptr().add(dst_skip), source.as_mut_ptr().add(src_skip), len)
                };
                assert_eq!(&target[dst_skip..dst_skip + len], &source[src_skip..src_skip + len]);
                // SAFETY: as above.
                unsafe { copy_in(target.as_mut_ptr().add(dst_skip), &source[..len]) };
                assert_eq!(&target[dst_skip..dst_skip + len], &source[..len]);
                assert!(
                    target[..dst_skip].iter().chain(&target[dst_skip + len..]).all(|&b| b == 0xAA),
                    "len {len}"
                );
            }
        }
    }

    #[test]
    fn fill_stays_inside() {
        let mut target = vec![1u8; 700];
        // SAFETY: 600 bytes from offset 50 lie inside the vector.
        unsafe { fill_shared(target.as_mut_ptr().add(50), 9, 600) };
        assert!(target[..50].iter().chain(&target[650..]).all(|&b| b == 1));
        assert!(target[50..650].iter().all(|&b| b == 9));
    }
}
