// PIL's antialiased bicubic resize of RGB8, bit for bit, and normalisation     (`segface_kernels::image::Resampler`)
//
//     middle[y, x] = byte(Σ source[y, first(x) + k] · weight(x, k))        resize_horizontal
//     out[y, x]    = byte(Σ middle[first(y) + k, x] · weight(y, k))        resize_vertical
//
// Weights are integers with 22 fractional bits, made on the host. Both passes are launched also where an axis keeps its size: its
// weights are then single ones. A sum fits 32 bits, so it may be put together modulo 2³² from the weight's three bytes: an
// instruction of four byte products (dp4a) for each, 9 for four RGB taps, where multiply-adds would need 12 and as many
// extractions. Taps come in groups of four whose first index is a multiple of four: twelve bytes, so three words, of a row.
//
// Multiply-adds 3·(H·R_w·taps_x + R_h·R_w·taps_y), about 12·(H·W + H·R_w) when shrinking. Bytes: the source once (and an
// eighth more where tiles meet), 3·H·R_w written and read back in the cache, the result.
#pragma once
#include "cuda/memory.cuh"

namespace segface::image {

// An axis is `stride` (≥ 2) chunks per output index, one per group of taps. Word p of a chunk holds byte p of the four weights,
// the last one signed. Word 3 of the first chunk is the number of the first group, that of the second the number past the last.
struct Axis {
    const Chunk *chunks;
    int stride;
    __device__ __forceinline__ const Chunk *of(int index) const { return chunks + u64(index) * u32(stride); }
    __device__ __forceinline__ int first(int index) const { return int(of(index)[0].word[3]); }
    __device__ __forceinline__ int end(int index) const { return int(of(index)[1].word[3]); }
};

// Sums of bytes times weights, of which each byte is summed by itself.
struct WeightedSum {
    u32 low = 0, middle = 0;
    int high = 0;
    __device__ __forceinline__ void add(u32 bytes, const Chunk &weights) {
        asm("dp4a.u32.u32 %0, %1, %2, %0;" : "+r"(low) : "r"(bytes), "r"(weights.word[0]));
        asm("dp4a.u32.u32 %0, %1, %2, %0;" : "+r"(middle) : "r"(bytes), "r"(weights.word[1]));
        asm("dp4a.u32.s32 %0, %1, %2, %0;" : "+r"(high) : "r"(bytes), "r"(weights.word[2]));
    }
    __device__ __forceinline__ u32 total() const { return low + (middle << 8) + (u32(high) << 16); }
};

// A sum back to a byte: rounded, clamped.
__device__ __forceinline__ u32 to_byte(u32 sum) {
    const int value = int(sum + (1u << 21)) >> 22;
    return u32(value < 0 ? 0 : value > 255 ? 255 : value);
}

// Bytes of a row of `middle`, which holds ⌈height / 4⌉ · 4 rows.
__device__ __forceinline__ int middle_pitch(int width) { return (3 * width + 3) & ~3; }

// A row of bytes as words, from byte `begin` on, zeros past its end. Rows may begin at any address, and nothing outside of
// them is read: a word of the row is put together from two of memory, the row's first and last ones byte by byte.
struct RowWords {
    const u8 *row;
    int bytes;
    // Words of memory; how many bits of each are not the row's; 1 if so, as then the next word is needed too; the words of the
    // row for which both lie inside it.
    const u32 *words;
    u32 shift;
    int next, first, end;

    __device__ __forceinline__ RowWords(const u8 *image_row, int row_bytes, int begin) {
        row = image_row + begin;
        bytes = row_bytes - begin;
        const int skew = int(reinterpret_cast<u64>(row) & 3);
        words = reinterpret_cast<const u32 *>(row - skew);
        shift = u32(8 * skew);
        next = skew != 0;
        first = skew > begin;
        end = (bytes + skew) / 4 - next;
    }
    __device__ __forceinline__ u32 get(int i) const {
        if (i >= first && i < end) return __funnelshift_r(words[i], words[i + next], shift);
        u32 word = 0;
#pragma unroll 1
        for (int byte = 4 * i; byte < 4 * i + 4 && byte < bytes; byte++) word |= u32(row[byte]) << 8 * (byte - 4 * i);
        return word;
    }
};

// A block makes 32 columns of 32 rows. A lane has a row and a warp four columns, so the weights of a load are one address for
// a warp, and rows of an odd number of words put a column's bytes into different banks. The source goes through shared memory
// in segments of 256 pixels, whatever the scale. Columns are dealt to warps in turn, so that each segment has work for all.
struct Horizontal {
    static constexpr int ROWS = 32, COLUMNS = 32, WARPS = 8, THREADS = 32 * WARPS;
    static constexpr int OWN = COLUMNS / WARPS;
    static constexpr int SEGMENT = 64, PITCH = 3 * SEGMENT + 1;
    static constexpr int RESULT_WORDS = 3 * COLUMNS / 4, RESULT_PITCH = RESULT_WORDS + 1;
};

// `source`: first pixel of the window, `stride` bytes from row to row. Grid: (columns, rows) in blocks of 32 × 32.
__device__ __forceinline__ void resize_horizontal(const u8 *source, int width, int height, u64 stride, Axis axis, u8 *middle,
                                                  int out_width) {
    using H = Horizontal;
    __shared__ u32 rows[H::ROWS * H::PITCH];
    __shared__ u32 result[H::ROWS * H::RESULT_PITCH];
    const int lane = int(threadIdx.x) & 31, warp = int(threadIdx.x) / 32;
    const int column0 = int(blockIdx.x) * H::COLUMNS, row0 = int(blockIdx.y) * H::ROWS;
    const int last = column0 + H::COLUMNS < out_width ? column0 + H::COLUMNS - 1 : out_width - 1;

    int first[H::OWN], end[H::OWN];
    u32 sums[H::OWN][3];
#pragma unroll
    for (int i = 0; i < H::OWN; i++) {
        const int column = column0 + warp + i * H::WARPS;
        first[i] = column <= last ? axis.first(column) : 0;
        end[i] = column <= last ? axis.end(column) : 0;
        sums[i][0] = sums[i][1] = sums[i][2] = 0;
    }

    const int groups_end = axis.end(last);
    for (int segment = axis.first(column0); segment < groups_end; segment += H::SEGMENT) {
        const int groups = groups_end - segment < H::SEGMENT ? groups_end - segment : H::SEGMENT;
        for (int r = warp; r < H::ROWS; r += H::WARPS) {
            const bool there = row0 + r < height;
            const RowWords words(source + u64(there ? row0 + r : 0) * stride, there ? 3 * width : 0, 12 * segment);
#pragma unroll 3
            for (int i = lane; i < 3 * groups; i += 32) rows[r * H::PITCH + i] = words.get(i);
        }
        __syncthreads();
#pragma unroll
        for (int i = 0; i < H::OWN; i++) {
            const int from = first[i] > segment ? first[i] : segment;
            const int to = end[i] < segment + groups ? end[i] : segment + groups;
            const Chunk *weights = axis.of(column0 + warp + i * H::WARPS) - first[i];
            const u32 *row = rows + lane * H::PITCH - 3 * segment;
            WeightedSum red, green, blue;
#pragma unroll 2
            for (int group = from; group < to; group++) {
                const Chunk weight = load_chunk(weights + group);
                // R0 G0 B0 R1 | G1 B1 R2 G2 | B2 R3 G3 B3
                const u32 a = row[3 * group], b = row[3 * group + 1], c = row[3 * group + 2];
                red.add(__byte_perm(__byte_perm(a, b, 0x0630), c, 0x5210), weight);
                green.add(__byte_perm(__byte_perm(a, b, 0x0741), c, 0x6210), weight);
                blue.add(__byte_perm(__byte_perm(a, b, 0x0052), c, 0x7410), weight);
            }
            sums[i][0] += red.total();
            sums[i][1] += green.total();
            sums[i][2] += blue.total();
        }
        __syncthreads();
    }

#pragma unroll
    for (int i = 0; i < H::OWN; i++) {
        u8 *pixel = reinterpret_cast<u8 *>(result + lane * H::RESULT_PITCH) + 3 * (warp + i * H::WARPS);
#pragma unroll
        for (int c = 0; c < 3; c++) pixel[c] = u8(to_byte(sums[i][c]));
    }
    __syncthreads();
    // Rows past the image are zeros, up to a whole group of taps: the vertical pass reads them, times nothing.
    const int pitch = middle_pitch(out_width), rows_end = (height + 3) & ~3;
    for (int i = int(threadIdx.x); i < H::ROWS * H::RESULT_WORDS; i += H::THREADS) {
        const int r = i / H::RESULT_WORDS, w = i % H::RESULT_WORDS, byte = 3 * column0 + 4 * w;
        if (row0 + r < rows_end && byte < pitch) {
            *reinterpret_cast<u32 *>(middle + u64(row0 + r) * u32(pitch) + byte) = result[r * H::RESULT_PITCH + w];
        }
    }
}

// `(v / 255 − mean) / std` of a channel, in this order, rounded each time.
__device__ __forceinline__ float normalise(u32 value, int channel) {
    const float mean = channel == 0 ? 0.485f : channel == 1 ? 0.456f : 0.406f;
    const float deviation = channel == 0 ? 0.229f : channel == 1 ? 0.224f : 0.225f;
    return (float(value) / 255.0f - mean) / deviation;
}

// Where the four bytes of a word go. `byte` is the first one's place in the row, a multiple of four.

// RGB8 `[height, width, 3]`.
struct Bytes {
    u8 *out;
    __device__ __forceinline__ void store(int y, int byte, u32 word, int width, int) const {
        const int bytes = 3 * width;
        u8 *target = out + u64(y) * u32(bytes) + byte;
        if (bytes % 4 == 0) {
            *reinterpret_cast<u32 *>(target) = word;
            return;
        }
#pragma unroll
        for (int i = 0; i < 4; i++) {
            if (byte + i < bytes) target[i] = u8(word >> 8 * i);
        }
    }
};

// The network's input `[height, width, 3]`.
template <class E>
struct Interleaved {
    E *out;
    __device__ __forceinline__ void store(int y, int byte, u32 word, int width, int) const {
        const int values = 3 * width;
        E *target = out + u64(y) * u32(values) + byte;
        float value[4];
#pragma unroll
        for (int i = 0; i < 4; i++) value[i] = normalise(word >> 8 * i & 255, (byte + i) % 3);
        if (values % 4 == 0) {
            if constexpr (sizeof(E) == 2) {
                *reinterpret_cast<uint2 *>(target) = uint2{pack<E>(value[0], value[1]), pack<E>(value[2], value[3])};
            } else {
                store_chunk(target, pack<E>(value));
            }
            return;
        }
#pragma unroll
        for (int i = 0; i < 4; i++) {
            if (byte + i < values) target[i] = narrow<E>(value[i]);
        }
    }
};

// `[3, height, width]`.
template <class E>
struct Planar {
    E *out;
    __device__ __forceinline__ void store(int y, int byte, u32 word, int width, int height) const {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const int channel = (byte + i) % 3, x = (byte + i) / 3;
            if (x >= width) continue;
            out[(u64(channel) * u32(height) + u32(y)) * u32(width) + u32(x)] = narrow<E>(normalise(word >> 8 * i & 255, channel));
        }
    }
};

// A warp has 128 bytes of a row, a block 8 rows, whose taps overlap in the cache. Grid: (⌈pitch / 128⌉, ⌈height / 8⌉).
struct Vertical {
    static constexpr int BYTES = 128, ROWS = 8, THREADS = 32 * ROWS;
};

template <class Sink>
__device__ __forceinline__ void resize_vertical(const u8 *middle, Axis axis, const Sink &sink, int width, int height) {
    const int byte = int(blockIdx.x) * Vertical::BYTES + 4 * (int(threadIdx.x) & 31);
    const int y = int(blockIdx.y) * Vertical::ROWS + int(threadIdx.x) / 32, pitch = middle_pitch(width);
    if (byte >= pitch || y >= height) return;
    const int first = axis.first(y), end = axis.end(y);
    const Chunk *weights = axis.of(y) - first;
    WeightedSum sums[4];
#pragma unroll 4
    for (int group = first; group < end; group++) {
        const Chunk weight = load_chunk(weights + group);
        const u8 *source = middle + u64(4 * group) * u32(pitch) + byte;
        u32 row[4];
#pragma unroll
        for (int i = 0; i < 4; i++) row[i] = *reinterpret_cast<const u32 *>(source + u64(i) * u32(pitch));
        // Four rows of four bytes to four columns.
        const u32 low01 = __byte_perm(row[0], row[1], 0x5140), low23 = __byte_perm(row[2], row[3], 0x5140);
        const u32 high01 = __byte_perm(row[0], row[1], 0x7362), high23 = __byte_perm(row[2], row[3], 0x7362);
        sums[0].add(__byte_perm(low01, low23, 0x5410), weight);
        sums[1].add(__byte_perm(low01, low23, 0x7632), weight);
        sums[2].add(__byte_perm(high01, high23, 0x5410), weight);
        sums[3].add(__byte_perm(high01, high23, 0x7632), weight);
    }
    u32 word = 0;
#pragma unroll
    for (int i = 0; i < 4; i++) word |= to_byte(sums[i].total()) << 8 * i;
    sink.store(y, byte, word, width, height);
}

}  // namespace segface::image
