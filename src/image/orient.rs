//! EXIF orientation: how a stored picture must be turned to stand upright.

/// The eight orientations of TIFF and EXIF, tag 0x0112. Named by what has to be done to the stored pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Orientation {
    Upright,
    MirrorColumns,
    HalfTurn,
    MirrorRows,
    Transpose,
    QuarterTurnRight,
    AntiTranspose,
    QuarterTurnLeft,
}

impl Orientation {
    /// From EXIF data (a TIFF header and what follows, with or without the `Exif\0\0` in front). Damaged or absent EXIF
    /// means upright: a photo is not refused for it, as no viewer does.
    pub(super) fn from_exif(data: Option<Vec<u8>>) -> Orientation {
        data.and_then(read).unwrap_or(Orientation::Upright)
    }

    fn from_tag(value: u32) -> Option<Orientation> {
        use Orientation::*;
        let all =
            [Upright, MirrorColumns, HalfTurn, MirrorRows, Transpose, QuarterTurnRight, AntiTranspose, QuarterTurnLeft];
        all.get((value as usize).checked_sub(1)?).copied()
    }

    /// Upright pixels and their size, from RGB8 of `width`×`height`.
    pub(super) fn apply(self, mut pixels: Vec<u8>, width: usize, height: usize) -> (Vec<u8>, usize, usize) {
        use Orientation::*;
        match self {
            Upright => {}
            MirrorColumns => pixels.chunks_exact_mut(3 * width).for_each(mirror),
            HalfTurn => mirror(&mut pixels),
            MirrorRows => {
                // A half turn, then each row back.
                mirror(&mut pixels);
                pixels.chunks_exact_mut(3 * width).for_each(mirror);
            }
            Transpose => return (transpose(&pixels, width, height, false, false), height, width),
            QuarterTurnRight => return (transpose(&pixels, width, height, false, true), height, width),
            AntiTranspose => return (transpose(&pixels, width, height, true, true), height, width),
            QuarterTurnLeft => return (transpose(&pixels, width, height, true, false), height, width),
        }
        (pixels, width, height)
    }
}

fn read(mut data: Vec<u8>) -> Option<Orientation> {
    if data.starts_with(b"Exif\0\0") {
        data.drain(..6);
    }
    // A broken entry elsewhere does not make the orientation wrong.
    let exif = exif::Reader::new()
        .continue_on_error(true)
        .read_raw(data)
        .or_else(|error| error.distill_partial_result(|_| ()))
        .ok()?;
    Orientation::from_tag(exif.get_field(exif::Tag::Orientation, exif::In::PRIMARY)?.value.get_uint(0)?)
}

/// Reverses the order of pixels.
fn mirror(pixels: &mut [u8]) {
    let (pixels, _) = pixels.as_chunks_mut::<3>();
    pixels.reverse();
}

/// Output (x, y) is input (y', x'), where a flag mirrors that input axis. Works in tiles, so that neither side misses the cache
/// on every pixel.
fn transpose(pixels: &[u8], width: usize, height: usize, mirror_x: bool, mirror_y: bool) -> Vec<u8> {
    const TILE: usize = 32;
    let (input, _) = pixels.as_chunks::<3>();
    let mut out = vec![0; pixels.len()];
    let (output, _) = out.as_chunks_mut::<3>();
    for tile_y in (0..width).step_by(TILE) {
        for tile_x in (0..height).step_by(TILE) {
            for y in tile_y..(tile_y + TILE).min(width) {
                let from_x = if mirror_x { width - 1 - y } else { y };
                for x in tile_x..(tile_x + TILE).min(height) {
                    let from_y = if mirror_y { height - 1 - x } else { x };
                    output[y * height + x] = input[from_y * width + from_x];
                }
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A picture of 2×3 pixels, `a b / c d / e f`, as each orientation stores it.
    #[test]
    fn every_orientation_comes_out_upright() {
        let stored = [
            (1, "ab cd ef"),
            (2, "ba dc fe"),
            (3, "fe dc ba"),
            (4, "ef cd ab"),
            (5, "ace bdf"),
            (6, "bdf ace"),
            (7, "fdb eca"),
            (8, "eca fdb"),
        ];
        for (tag, rows) in stored {
            let rows: Vec<&[u8]> = rows.split(' ').map(str::as_bytes).collect();
            let pixels: Vec<u8> = rows.concat().iter().flat_map(|&v| [v, v + 100, 0]).collect();
            let orientation = Orientation::from_tag(tag).unwrap();
            let (out, width, height) = orientation.apply(pixels, rows[0].len(), rows.len());
            let letters: Vec<u8> = out.chunks(3).map(|pixel| pixel[0]).collect();
            assert_eq!((width, height, &letters[..]), (2, 3, &b"abcdef"[..]), "orientation {tag}");
            assert!(
                out.chunks(3).all(|pixel| pixel[1] == pixel[0] + 100 && pixel[2] == 0),
                "channels keep their order"
            );
        }
        assert_eq!(Orientation::from_tag(0), None);
        assert_eq!(Orientation::from_tag(9), None);
    }

    #[test]
    fn tiles_cover_pictures_larger_than_one() {
        let (width, height) = (75, 41);
        let pixels: Vec<u8> = (0..width * height).flat_map(|i| [i as u8, (i >> 8) as u8, 7]).collect();
        let (turned, w, h) = Orientation::QuarterTurnRight.apply(pixels.clone(), width, height);
        let (back, w, h) = Orientation::QuarterTurnLeft.apply(turned, w, h);
        assert_eq!((back, w, h), (pixels, width, height));
    }

    #[test]
    fn damaged_exif_means_upright() {
        for data in [None, Some(vec![]), Some(b"Exif\0\0".to_vec()), Some(b"II*\0\xff\xff\xff\xff".to_vec())] {
            assert_eq!(Orientation::from_exif(data), Orientation::Upright);
        }
    }

    #[test]
    fn orientation_is_read_although_a_later_entry_is_broken() {
        let mut tiff = b"II*\0\x08\0\0\0\x02\0".to_vec();
        tiff.extend([0x12, 1, 3, 0, 1, 0, 0, 0, 6, 0, 0, 0]);
        // A second entry whose value lies far outside.
        tiff.extend([0x31, 1, 2, 0, 0xff, 0xff, 0, 0, 0xff, 0xff, 0, 0]);
        assert_eq!(Orientation::from_exif(Some(tiff)), Orientation::QuarterTurnRight);
    }
}
