// Where the tokens of a window lie, and which pairs of them are masked (`segface_kernels::window_attention::WindowPlan`).
#pragma once
#include "cuda/number.cuh"

namespace segface::window_attention {

// Positions of a window whose row (or column, if not DOWN) is among the last `last`, as bits.
template <int WINDOW, bool DOWN>
constexpr u64 last_positions(int last) {
    u64 bits = 0;
    for (int i = 0; i < WINDOW * WINDOW; i++) {
        if ((DOWN ? i / WINDOW : i % WINDOW) >= WINDOW - last) bits |= u64(1) << i;
    }
    return bits;
}

// The map [height, width] is padded to whole windows, rolled by −shift and cut into windows. A shift is 0 or WINDOW / 2.
template <int WINDOW>
struct Plan {
    static constexpr int AREA = WINDOW * WINDOW, SHIFT = WINDOW / 2;
    int height, width, shift_y, shift_x, windows_y, windows_x;

    __device__ __forceinline__ Plan(int height, int width, int shift_y, int shift_x)
        : height(height), width(width), shift_y(shift_y), shift_x(shift_x), windows_y(ceil_divide(height, WINDOW)),
          windows_x(ceil_divide(width, WINDOW)) {}

    // Windows of an image.
    __device__ __forceinline__ int windows() const { return windows_y * windows_x; }

    // The pixel of position `i` of window `window` counted over all images, or −1 for padding.
    __device__ __forceinline__ int pixel(int window, int i) const {
        const int image = window / windows(), within = window % windows();
        int y = within / windows_x * WINDOW + i / WINDOW + shift_y, x = within % windows_x * WINDOW + i % WINDOW + shift_x;
        if (y >= windows_y * WINDOW) y -= windows_y * WINDOW;
        if (x >= windows_x * WINDOW) x -= windows_x * WINDOW;
        return y < height && x < width ? (image * height + y) * width + x : -1;
    }

    // Keys, as bits, that lie in another region of the rolled map than position `query` of the window. Only the last windows of
    // an axis hold several regions: where the map's far edge and what was rolled around meet.
    __device__ __forceinline__ u64 apart(int window, int query) const {
        constexpr u64 DOWN = last_positions<WINDOW, true>(SHIFT), RIGHT = last_positions<WINDOW, false>(SHIFT);
        const int within = window % windows();
        u64 keys = 0;
        if (shift_y != 0 && within / windows_x == windows_y - 1) keys |= DOWN >> query & 1 ? ~DOWN : DOWN;
        if (shift_x != 0 && within % windows_x == windows_x - 1) keys |= RIGHT >> query & 1 ? ~RIGHT : RIGHT;
        return keys;
    }
};

}  // namespace segface::window_attention
