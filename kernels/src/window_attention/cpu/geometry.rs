//! Which tokens a window has, where they lie in the map, and how windows are shared out to tasks.

use crate::window_attention::WindowPlan;
use std::ops::Range;

/// Largest window side there is.
pub(super) const MAX_SIDE: usize = 8;

/// Largest number of tokens in a window.
pub(in crate::window_attention) const MAX_TOKENS: usize = MAX_SIDE * MAX_SIDE;

/// One row or column of windows, along its axis.
#[derive(Clone, Copy)]
struct Span {
    /// Positions 0..window that have tokens: how many, which, and where in the map.
    real: usize,
    position: [u8; MAX_SIDE],
    source: [u32; MAX_SIDE],
    /// Region of every position: 0, 1 or 2.
    region: [u8; MAX_SIDE],
}

impl Span {
    fn new(plan: &WindowPlan, axis: usize, window: usize) -> Self {
        let mut span = Span { real: 0, position: [0; MAX_SIDE], source: [0; MAX_SIDE], region: [0; MAX_SIDE] };
        let (padded, side, shift) = (plan.padded()[axis], plan.window, plan.shift[axis]);
        for i in 0..side {
            let rolled = window * side + i;
            let source = (rolled + shift) % padded;
            if source < plan.input[axis] {
                span.position[span.real] = i as u8;
                span.source[span.real] = source as u32;
                span.real += 1;
            }
            if shift > 0 {
                span.region[i] = u8::from(rolled >= padded - side) + u8::from(rolled >= padded - shift);
            }
        }
        span
    }

    /// Whether positions of different regions meet here.
    fn is_cut(&self, side: usize) -> bool {
        self.region[..side].iter().any(|r| *r != self.region[0])
    }
}

/// The windows of a batch of maps, numbered image by image, row by row. The real tokens (those that are not padding) of all
/// windows in this order are called rows.
pub(in crate::window_attention) struct Geometry {
    plan: WindowPlan,
    down: Vec<Span>,
    across: Vec<Span>,
    /// First row of every window, and at the end the number of rows.
    first_row: Vec<usize>,
}

/// One window's real tokens.
pub(in crate::window_attention) struct Window {
    /// Its rows.
    pub(in crate::window_attention) rows: Range<usize>,
    tokens: [u8; MAX_TOKENS],
    region: Option<[f32; MAX_TOKENS]>,
}

impl Window {
    /// Position in the window (0..window²) of each of its rows, ascending.
    pub(in crate::window_attention) fn tokens(&self) -> &[u8] {
        &self.tokens[..self.rows.len()]
    }

    /// Region (0..9) of every position, if the window has more than one: pairs of different regions are masked.
    pub(in crate::window_attention) fn regions(&self) -> Option<&[f32; MAX_TOKENS]> {
        self.region.as_ref()
    }
}

impl Geometry {
    /// # Panics
    /// If the window is larger than 8 or the shift is not below it.
    pub(in crate::window_attention) fn new(batch: usize, plan: &WindowPlan) -> Self {
        let side = plan.window;
        assert!((1..=MAX_SIDE).contains(&side), "a window of side {side}, expected 1 to {MAX_SIDE}");
        assert!(plan.shift.iter().all(|shift| *shift < side), "shift {:?} of windows of side {side}", plan.shift);
        let [windows_down, windows_across] = plan.windows();
        let down: Vec<_> = (0..windows_down).map(|window| Span::new(plan, 0, window)).collect();
        let across: Vec<_> = (0..windows_across).map(|window| Span::new(plan, 1, window)).collect();
        let mut first_row = Vec::with_capacity(batch * windows_down * windows_across + 1);
        let mut row = 0;
        first_row.push(row);
        for _ in 0..batch {
            for y in &down {
                for x in &across {
                    row += y.real * x.real;
                    first_row.push(row);
                }
            }
        }
        Self { plan: *plan, down, across, first_row }
    }

    /// Windows of all images.
    pub(in crate::window_attention) fn windows(&self) -> usize {
        self.first_row.len() - 1
    }

    /// Real tokens of all images.
    pub(in crate::window_attention) fn rows(&self) -> usize {
        self.first_row[self.windows()]
    }

    /// Rows of a run of windows.
    pub(super) fn rows_of(&self, windows: &Range<usize>) -> Range<usize> {
        self.first_row[windows.start]..self.first_row[windows.end]
    }

    /// Rows of the largest of some runs of windows.
    pub(super) fn most_rows(&self, groups: &[Range<usize>]) -> usize {
        groups.iter().map(|windows| self.rows_of(windows).len()).max().unwrap_or(0)
    }

    fn spans(&self, window: usize) -> (usize, &Span, &Span) {
        let (down, across) = (self.down.len(), self.across.len());
        (window / (down * across), &self.down[window / across % down], &self.across[window % across])
    }

    /// The window of that number.
    pub(in crate::window_attention) fn window(&self, window: usize) -> Window {
        let (_, y, x) = self.spans(window);
        let side = self.plan.window;
        let mut tokens = [0; MAX_TOKENS];
        let mut count = 0;
        for i in &y.position[..y.real] {
            for j in &x.position[..x.real] {
                tokens[count] = i * side as u8 + j;
                count += 1;
            }
        }
        Window { rows: self.rows_of(&(window..window + 1)), tokens, region: self.regions(window) }
    }

    /// The window of that number with padded tokens as rows of their own, as the un-fused plan has it.
    pub(in crate::window_attention) fn padded_window(&self, window: usize) -> Window {
        let tokens = self.plan.window * self.plan.window;
        let all = std::array::from_fn(|i| i as u8);
        Window { rows: window * tokens..(window + 1) * tokens, tokens: all, region: self.regions(window) }
    }

    fn regions(&self, window: usize) -> Option<[f32; MAX_TOKENS]> {
        let (_, y, x) = self.spans(window);
        let side = self.plan.window;
        (y.is_cut(side) || x.is_cut(side)).then(|| {
            let mut region = [0.0; MAX_TOKENS];
            for i in 0..side {
                for j in 0..side {
                    region[i * side + j] = f32::from(y.region[i] * 3 + x.region[j]);
                }
            }
            region
        })
    }

    /// Pixel (row of x [batch·h·w, C]) of each row of a run of windows.
    pub(in crate::window_attention) fn pixels(&self, windows: Range<usize>, pixels: &mut [u32]) {
        let [height, width] = self.plan.input.map(|side| side as u32);
        let mut places = pixels.iter_mut();
        for window in windows {
            let (image, y, x) = self.spans(window);
            for row in &y.source[..y.real] {
                for (column, place) in x.source[..x.real].iter().zip(&mut places) {
                    *place = (image as u32 * height + row) * width + column;
                }
            }
        }
    }

    /// Cuts the windows into `groups` runs (or as many as there are windows) with about equally many rows.
    pub(super) fn cut(&self, groups: usize) -> Vec<Range<usize>> {
        let groups = groups.clamp(1, self.windows().max(1));
        let mut start = 0;
        (1..=groups)
            .map(|group| {
                // The window boundary nearest to this group's share, leaving a window for each group to come.
                let share = self.rows() * group / groups;
                let latest = self.windows() - (groups - group);
                let above = self.first_row.partition_point(|row| *row < share).min(self.windows());
                let nearer_below =
                    above > 0 && share - self.first_row[above - 1] < self.first_row[above].abs_diff(share);
                let end = if group == groups { self.windows() } else { above - usize::from(nearer_below) };
                let range = start..end.clamp((start + 1).min(latest), latest);
                start = range.end;
                range
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every window of some plans, against the definitions in `WindowPlan`.
    #[test]
    fn tokens_regions_and_pixels_are_the_plans() {
        for (input, side, shift) in
            [([14, 14], 7, 3), ([16, 16], 7, 3), ([16, 9], 7, 3), ([3, 20], 8, 4), ([1, 1], 7, 3), ([22, 15], 7, 0)]
        {
            let plan = WindowPlan::new(input, side, shift);
            let batch = 2;
            let geometry = Geometry::new(batch, &plan);
            let [down, across] = plan.windows();
            assert_eq!(geometry.windows(), batch * down * across);
            assert_eq!(geometry.rows(), batch * input[0] * input[1]);
            let mut pixels = vec![0; geometry.rows()];
            geometry.pixels(0..geometry.windows(), &mut pixels);
            for index in 0..geometry.windows() {
                let (image, y, x) = (index / (down * across), index / across % down, index % across);
                let window = geometry.window(index);
                let expected: Vec<usize> = (0..side * side).filter(|i| plan.source(y, x, *i).is_some()).collect();
                assert_eq!(window.tokens().iter().map(|t| usize::from(*t)).collect::<Vec<_>>(), expected);
                for (token, row) in expected.iter().zip(window.rows.clone()) {
                    let pixel = plan.source(y, x, *token).unwrap() + image * input[0] * input[1];
                    assert_eq!(pixels[row] as usize, pixel);
                }
                let region = |i| plan.region(y, x, i);
                match window.regions() {
                    None => assert!((0..side * side).all(|i| region(i) == region(0))),
                    Some(regions) => {
                        for i in 0..side * side {
                            for j in 0..side * side {
                                assert_eq!(regions[i] == regions[j], region(i) == region(j));
                            }
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn groups_cover_all_windows_in_order() {
        for input in [[7, 7], [16, 16], [35, 20], [128, 128], [2, 2]] {
            let geometry = Geometry::new(1, &WindowPlan::new(input, 7, 3));
            for groups in [1, 2, 3, 5, 100] {
                let cut = geometry.cut(groups);
                assert_eq!(cut.len(), groups.min(geometry.windows()));
                assert_eq!((cut[0].start, cut[cut.len() - 1].end), (0, geometry.windows()));
                assert!(cut.windows(2).all(|pair| pair[0].end == pair[1].start));
                assert!(cut.iter().all(|range| !range.is_empty()));
            }
        }
    }
}
