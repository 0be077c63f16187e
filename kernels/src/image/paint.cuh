// Class colours: over the photo, and alone; count and bounding box of each class
//                                                      (`segface_kernels::image::{blend_labels, class_regions}`)
// Integers throughout, bit for bit what the CPU computes. Images have fewer than 2³² pixels.
#pragma once
#include "cuda/number.cuh"

namespace segface::image {

// A palette is a word per class: red | green << 8 | blue << 16.

constexpr int PAINT_THREADS = 256;

// Four RGB pixels, one after the other: R0 G0 B0 R1 | G1 B1 R2 G2 | B2 R3 G3 B3.
struct FourPixels {
    u32 words[3];
    // Red, green, blue, and a byte of no meaning.
    __device__ __forceinline__ u32 get(int pixel) const {
        return pixel == 0 ? words[0] : pixel == 1 ? __byte_perm(words[0], words[1], 0x6543)
             : pixel == 2 ? __byte_perm(words[1], words[2], 0x5432) : words[2] >> 8;
    }
    __device__ __forceinline__ void set(int pixel, u32 color) {
        if (pixel == 0) {
            words[0] = __byte_perm(color, words[0], 0x7210);
        } else if (pixel == 1) {
            words[0] = __byte_perm(words[0], color, 0x4210);
            words[1] = __byte_perm(words[1], color, 0x3265);
        } else if (pixel == 2) {
            words[1] = __byte_perm(words[1], color, 0x5410);
            words[2] = __byte_perm(words[2], color, 0x3216);
        } else {
            words[2] = __byte_perm(words[2], color, 0x6540);
        }
    }
};

// Reads, changes and writes four pixels from number `first` on: twelve bytes at a multiple of twelve; the image's last ones byte
// by byte.
template <bool READ, class Change>
__device__ __forceinline__ void each_four(u8 *rgb, u32 first, u32 pixels, const Change &change) {
    FourPixels four{{0, 0, 0}};
    u8 *bytes = rgb + u64(first) * 3;
    const int count = pixels - first < 4 ? int(pixels - first) : 4;
    if (count == 4) {
        u32 *words = reinterpret_cast<u32 *>(bytes);
        if constexpr (READ) {
#pragma unroll
            for (int i = 0; i < 3; i++) four.words[i] = words[i];
        }
#pragma unroll
        for (int p = 0; p < 4; p++) change(four, p);
#pragma unroll
        for (int i = 0; i < 3; i++) words[i] = four.words[i];
        return;
    }
#pragma unroll
    for (int p = 0; p < 3; p++) {
        if (p >= count) continue;
        if constexpr (READ) {
            four.set(p, u32(bytes[3 * p]) | u32(bytes[3 * p + 1]) << 8 | u32(bytes[3 * p + 2]) << 16);
        }
        change(four, p);
#pragma unroll
        for (int c = 0; c < 3; c++) bytes[3 * p + c] = u8(four.get(p) >> 8 * c);
    }
}

// Labels `[pixels]` as RGB8 `[pixels, 3]` at an address that is a multiple of 4, overwritten. Grid: ⌈pixels / 4 / 256⌉.
__device__ __forceinline__ void color_labels(const u8 *labels, const u32 *palette, u8 *rgb, u32 pixels) {
    const u32 first = (blockIdx.x * PAINT_THREADS + threadIdx.x) * 4;
    if (first >= pixels) return;
    each_four<false>(rgb, first, pixels, [&](FourPixels &four, int p) {
        four.set(p, palette[labels[first + u32(p)]]);
    });
}

// Labels `[height, width]` over rgb `[height, width, 3]` at an address that is a multiple of 4, changed in place.
//
// value += (color − value)·weight/256, rounded: the class colour with weight `fill` inside a part (class 0 excepted), a light
// tone of it with weight `line` where the label differs from the one `line_width` further right or down. Weights are 256ths.
// A thread has four pixels. Grid: ⌈pixels / 4 / 256⌉. Bytes: 7·H·W; the other labels come from the cache.
__device__ __forceinline__ void blend_labels(u8 *rgb, const u8 *labels, int width, int height, const u32 *palette, int fill,
                                             int line, int line_width) {
    const u32 pixels = u32(width) * u32(height), first = (blockIdx.x * PAINT_THREADS + threadIdx.x) * 4;
    if (first >= pixels) return;
    int y = int(first / u32(width)), x = int(first % u32(width));
    each_four<true>(rgb, first, pixels, [&](FourPixels &four, int p) {
        const u8 *row = labels + u64(u32(y)) * u32(width);
        const u8 *below = labels + u64(u32(line_width < height - y ? y + line_width : height - 1)) * u32(width);
        const int right = line_width < width - x ? x + line_width : width - 1;
        const int label = row[x], beside = row[right], under = below[x], diagonal = below[right];
        const int other = beside != label ? beside : under != label ? under : diagonal;
        const bool edge = other != label;
        // A boundary takes its tone from the part, not from the background beside it.
        const u32 color = palette[edge && other > label ? other : label];
        const u32 weight = edge ? u32(line) : label != 0 ? u32(fill) : 0u;
        const u32 tone = edge ? (color >> 1 & 0x7f7f7fu) + 0x808080u : color;
        // Red and blue at once, sixteen bits each: 255·256 + 128 fits.
        const u32 old = four.get(p), keep = 256 - weight;
        const u32 red_blue = (old & 0xff00ffu) * keep + (tone & 0xff00ffu) * weight + 0x800080u;
        const u32 green = (old >> 8 & 255u) * keep + (tone >> 8 & 255u) * weight + 128u;
        four.set(p, (red_blue >> 8 & 0xff00ffu) | (green & 0xff00u));
        if (++x == width) {
            x = 0;
            y++;
        }
    });
}

// Where a class lies, so that all fields begin as zeros and only grow: pixels; 1 + last column; 1 + last row;
// width − first column; height − first row.
constexpr int REGION_FIELDS = 5;
constexpr int REGION_SEGMENT = 1024;

// Regions `[CLASSES, 5]` of labels `[height, width]`; they must be zeros before. A label that is no class is passed over.
//
// A warp has 1024 pixels of a row, 32 at a time, and mostly they have one label: then it only counts. Counts and extremes are
// integers, so the order of the atomics does not show. Grid: any number of blocks; ⌈segments / 8⌉, or a few per processor.
template <int CLASSES>
__device__ __forceinline__ void class_regions(const u8 *labels, int width, int height, u32 *regions) {
    __shared__ u32 block[CLASSES * REGION_FIELDS];
    for (int i = int(threadIdx.x); i < CLASSES * REGION_FIELDS; i += PAINT_THREADS) block[i] = 0;
    __syncthreads();
    const int lane = int(threadIdx.x) & 31;
    const u32 segments = u32(width + REGION_SEGMENT - 1) / REGION_SEGMENT, tasks = segments * u32(height);
    const u32 warps = gridDim.x * (PAINT_THREADS / 32);
    for (u32 task = blockIdx.x * (PAINT_THREADS / 32) + threadIdx.x / 32; task < tasks; task += warps) {
        const int y = int(task / segments), begin = int(task % segments) * REGION_SEGMENT;
        const int end = begin + REGION_SEGMENT < width ? begin + REGION_SEGMENT : width;
        const u8 *row = labels + u64(u32(y)) * u32(width);
        // A run of one label, the same in all lanes; it ends where another begins.
        u32 run_label = CLASSES;
        int run_begin = begin, run_end = begin;
        auto close = [&]() {
            if (run_label < CLASSES && lane == 0) {
                u32 *region = block + run_label * REGION_FIELDS;
                atomicAdd(region, u32(run_end - run_begin));
                atomicMax(region + 1, u32(run_end));
                atomicMax(region + 2, u32(y + 1));
                atomicMax(region + 3, u32(width - run_begin));
                atomicMax(region + 4, u32(height - y));
            }
        };
        for (int x = begin; x < end; x += 32) {
            const int count = end - x < 32 ? end - x : 32;
            const u32 label = lane < count ? row[x + lane] : 256u;
            u32 rest = __ballot_sync(~0u, lane < count);
            while (rest != 0) {
                const int start = __ffs(int(rest)) - 1;
                const u32 next = __shfl_sync(~0u, label, start);
                if (next != run_label) {
                    close();
                    run_label = next;
                    run_begin = x + start;
                }
                // The run goes on to the first lane that differs.
                const u32 differ = __ballot_sync(~0u, label != next) & rest;
                const int stop = differ != 0 ? __ffs(int(differ)) - 1 : count;
                run_end = x + stop;
                rest = stop < 32 ? rest & ~0u << stop : 0;
            }
        }
        close();
    }
    __syncthreads();
    for (int i = int(threadIdx.x); i < CLASSES * REGION_FIELDS; i += PAINT_THREADS) {
        if (block[i] == 0) continue;
        if (i % REGION_FIELDS == 0) atomicAdd(regions + i, block[i]);
        else atomicMax(regions + i, block[i]);
    }
}

}  // namespace segface::image
