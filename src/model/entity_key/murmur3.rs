//! MurmurHash3 by Austin Appleby (public domain), seed 0, in the two widths Feast uses.

/// The 32-bit hash.
pub(super) fn x86_32(data: &[u8]) -> u32 {
    fn mix(word: u32) -> u32 {
        word.wrapping_mul(0xcc9e_2d51)
            .rotate_left(15)
            .wrapping_mul(0x1b87_3593)
    }
    let mut hash = 0_u32;
    let (blocks, tail) = data.as_chunks::<4>();
    for block in blocks {
        hash = (hash ^ mix(u32::from_le_bytes(*block))).rotate_left(13);
        hash = hash.wrapping_mul(5).wrapping_add(0xe654_6b64);
    }
    let mut last = [0; 4];
    last[..tail.len()].copy_from_slice(tail);
    hash ^= mix(u32::from_le_bytes(last));
    // The algorithm is defined on the length modulo 2^32.
    hash ^= data.len() as u32;
    hash = (hash ^ (hash >> 16)).wrapping_mul(0x85eb_ca6b);
    hash = (hash ^ (hash >> 13)).wrapping_mul(0xc2b2_ae35);
    hash ^ (hash >> 16)
}

/// The 128-bit hash for 64-bit machines: low half then high half, each little-endian.
pub(super) fn x64_128(data: &[u8]) -> [u8; 16] {
    const C1: u64 = 0x87c3_7b91_1142_53d5;
    const C2: u64 = 0x4cf5_ad43_2745_937f;
    fn mix_low(word: u64) -> u64 {
        word.wrapping_mul(C1).rotate_left(31).wrapping_mul(C2)
    }
    fn mix_high(word: u64) -> u64 {
        word.wrapping_mul(C2).rotate_left(33).wrapping_mul(C1)
    }
    fn halves(block: &[u8; 16]) -> (u64, u64) {
        let both = u128::from_le_bytes(*block);
        (both as u64, (both >> 64) as u64)
    }
    fn finish(mut half: u64) -> u64 {
        half = (half ^ (half >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
        half = (half ^ (half >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
        half ^ (half >> 33)
    }
    let (mut low, mut high) = (0_u64, 0_u64);
    let (blocks, tail) = data.as_chunks::<16>();
    for block in blocks {
        let (first, second) = halves(block);
        low = (low ^ mix_low(first)).rotate_left(27).wrapping_add(high);
        low = low.wrapping_mul(5).wrapping_add(0x52dc_e729);
        high = (high ^ mix_high(second)).rotate_left(31).wrapping_add(low);
        high = high.wrapping_mul(5).wrapping_add(0x3849_5ab5);
    }
    let mut last = [0; 16];
    last[..tail.len()].copy_from_slice(tail);
    let (first, second) = halves(&last);
    low ^= mix_low(first) ^ data.len() as u64;
    high ^= mix_high(second) ^ data.len() as u64;
    low = low.wrapping_add(high);
    high = high.wrapping_add(low);
    low = finish(low);
    high = finish(high);
    low = low.wrapping_add(high);
    high = high.wrapping_add(low);
    (u128::from(low) | (u128::from(high) << 64)).to_le_bytes()
}
