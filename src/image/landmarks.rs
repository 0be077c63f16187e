//! `--landmarks FILE`: the five points that LaPa's warp needs.

use super::ImageError;
use serde_json::Value;
use std::{collections::BTreeMap, fs, path::Path};

const NAMES: [&str; 5] = ["left eye", "right eye", "nose tip", "left corner of the mouth", "right corner of the mouth"];

/// How far outside of the photo a point may lie, in longer sides: faces are cut off by the border, and detectors extrapolate.
const MARGIN: f32 = 0.25;

/// Five points of a face, (x, y) in pixels: centre of the left eye, of the right eye, tip of the nose, left and right corner of
/// the mouth. Left is the left of the picture.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FacePoints(pub [[f32; 2]; 5]);

/// The landmarks of one photo or of several.
///
/// Forms: JSON `[[x, y], …]` or a list of ten numbers, the same under a `"landmarks"` key, or an object with the photo's file name
/// (or path) as key and one of these as value; or text with ten numbers, separated by blanks, commas or line ends.
#[derive(Debug, Clone, PartialEq)]
pub enum Landmarks {
    /// One face, whatever the photo's name.
    One(FacePoints),
    /// By file name or path as given on the command line.
    ByName(BTreeMap<String, FacePoints>),
}

impl Landmarks {
    /// Reads a file of any of the forms.
    ///
    /// # Errors
    /// [`ImageError::Read`], or [`ImageError::BadLandmarks`] saying what is wrong.
    pub fn load(path: &Path) -> Result<Landmarks, ImageError> {
        let bytes = fs::read(path).map_err(ImageError::Read)?;
        let text = String::from_utf8(bytes).map_err(|_| bad("the file is not text"))?;
        Landmarks::parse(&text)
    }

    /// Reads any of the forms from text.
    ///
    /// # Errors
    /// [`ImageError::BadLandmarks`].
    pub fn parse(text: &str) -> Result<Landmarks, ImageError> {
        let text = text.trim_start_matches('\u{feff}').trim();
        if text.is_empty() {
            return Err(bad("the file is empty"));
        }
        if !text.starts_with(['[', '{']) {
            let numbers: Result<Vec<f32>, _> = text
                .split(|c: char| c.is_whitespace() || matches!(c, ',' | ';'))
                .filter(|word| !word.is_empty())
                .map(|word| word.parse().map_err(|_| bad(format!("`{word}` is not a number"))))
                .collect();
            return points(&numbers?).map(Landmarks::One);
        }
        let value: Value = serde_json::from_str(text).map_err(|e| bad(format!("not valid JSON: {e}")))?;
        match value {
            Value::Object(mut map) => {
                if map.len() == 1
                    && let Some(inner) = map.remove("landmarks")
                {
                    return from_json(inner);
                }
                from_json(Value::Object(map))
            }
            other => from_json(other),
        }
    }

    /// The points of one photo. `path` is looked up as given, then by file name.
    ///
    /// # Errors
    /// [`ImageError::NoLandmarks`].
    pub fn of(&self, path: &Path) -> Result<FacePoints, ImageError> {
        let map = match self {
            Landmarks::One(points) => return Ok(*points),
            Landmarks::ByName(map) => map,
        };
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let found = map.get(path.to_string_lossy().as_ref()).or_else(|| map.get(name.as_ref()));
        found.copied().ok_or_else(|| ImageError::NoLandmarks { name: name.into_owned() })
    }
}

impl FacePoints {
    /// Checks that the points can belong to a photo of that size.
    ///
    /// # Errors
    /// [`ImageError::LandmarkOutside`] or [`ImageError::BadLandmarks`].
    pub fn check(&self, width: usize, height: usize) -> Result<(), ImageError> {
        let margin = MARGIN * width.max(height) as f32;
        for (index, [x, y]) in self.0.into_iter().enumerate() {
            let near = |v: f32, side: usize| (-margin..=side as f32 + margin).contains(&v);
            if !(near(x, width) && near(y, height)) {
                return Err(ImageError::LandmarkOutside { index, name: NAMES[index], x, y, width, height });
            }
        }
        if width.min(height) > 16 && self.0.iter().flatten().all(|v| (0.0..=1.0).contains(v)) {
            return Err(bad("all numbers are between 0 and 1: multiply them by the photo's width and height"));
        }
        Ok(())
    }

    /// Whether a mirrored face would fit these points better, which means that left and right were swapped.
    pub fn look_mirrored(&self) -> bool {
        let mean = |points: &[[f32; 2]; 5]| [0, 1].map(|axis| points.iter().map(|p| p[axis]).sum::<f32>() / 5.0);
        let standard = segface_kernels::image::STANDARD_FACE_POINTS;
        let (center, standard_center) = (mean(&self.0), mean(&standard));
        let (mut turned, mut mirrored) = ([0f32; 2], [0f32; 2]);
        for (p, s) in self.0.iter().zip(&standard) {
            let ([px, py], [sx, sy]) = ([0, 1].map(|a| p[a] - center[a]), [0, 1].map(|a| s[a] - standard_center[a]));
            // As complex numbers: Σ s·conj(p) measures the best rotation, Σ s·p the best reflection.
            turned = [turned[0] + sx * px + sy * py, turned[1] + sy * px - sx * py];
            mirrored = [mirrored[0] + sx * px - sy * py, mirrored[1] + sy * px + sx * py];
        }
        mirrored[0].hypot(mirrored[1]) > turned[0].hypot(turned[1])
    }
}

fn bad(reason: impl Into<String>) -> ImageError {
    ImageError::BadLandmarks { reason: reason.into() }
}

fn from_json(value: Value) -> Result<Landmarks, ImageError> {
    match value {
        Value::Object(map) if map.is_empty() => Err(bad("the JSON object is empty")),
        Value::Object(map) => {
            let mut faces = BTreeMap::new();
            for (name, value) in map {
                let face = face_from_json(&value).map_err(|e| match e {
                    ImageError::BadLandmarks { reason } => bad(format!("entry `{name}`: {reason}")),
                    other => other,
                })?;
                faces.insert(name, face);
            }
            Ok(Landmarks::ByName(faces))
        }
        other => face_from_json(&other).map(Landmarks::One),
    }
}

/// Five pairs, or ten numbers.
fn face_from_json(value: &Value) -> Result<FacePoints, ImageError> {
    let items = value.as_array().ok_or_else(|| bad("not a list of points"))?;
    let number =
        |value: &Value| value.as_f64().map(|v| v as f32).ok_or_else(|| bad(format!("`{value}` is not a number")));
    if items.iter().all(Value::is_number) {
        return points(&items.iter().map(number).collect::<Result<Vec<_>, _>>()?);
    }
    if items.len() != 5 {
        return Err(bad(format!("{} points instead of 5", items.len())));
    }
    let mut numbers = Vec::with_capacity(10);
    for item in items {
        let pair =
            item.as_array().filter(|pair| pair.len() == 2).ok_or_else(|| bad(format!("`{item}` is not [x, y]")))?;
        numbers.push(number(&pair[0])?);
        numbers.push(number(&pair[1])?);
    }
    points(&numbers)
}

fn points(numbers: &[f32]) -> Result<FacePoints, ImageError> {
    if numbers.len() != 10 {
        return Err(bad(format!("{} numbers instead of 10", numbers.len())));
    }
    if let Some(number) = numbers.iter().find(|v| !v.is_finite()) {
        return Err(bad(format!("{number} is not a coordinate")));
    }
    Ok(FacePoints(std::array::from_fn(|i| [numbers[2 * i], numbers[2 * i + 1]])))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FACE: FacePoints = FacePoints([[10.0, 20.0], [30.0, 20.0], [20.0, 30.0], [13.5, 40.0], [27.0, 40.0]]);

    #[test]
    fn every_form_gives_the_same_points() {
        let pairs = "[[10,20],[30,20],[20,30],[13.5,40],[27,40]]";
        for text in [
            pairs.into(),
            "[10,20,30,20,20,30,13.5,40,27,40]".into(),
            format!("{{\"landmarks\": {pairs}}}"),
            format!("\u{feff} {pairs}\n"),
            "10 20\n30 20\n20 30\n13.5 40\n27 40\n".into(),
            "10,20, 30,20; 20,30; 13.5e0,40; 27,40".into(),
        ] {
            assert_eq!(Landmarks::parse(&text).unwrap(), Landmarks::One(FACE), "{text}");
        }
        for text in [format!("{{\"a.jpg\": {pairs}}}"), format!("{{\"landmarks\": {{\"a.jpg\": {pairs}}}}}")] {
            let landmarks = Landmarks::parse(&text).unwrap();
            assert_eq!(landmarks.of(Path::new("folder/a.jpg")).unwrap(), FACE, "{text}");
            assert!(matches!(landmarks.of(Path::new("b.jpg")), Err(ImageError::NoLandmarks { .. })), "{text}");
        }
    }

    #[test]
    fn a_path_as_key_comes_before_the_file_name() {
        let other = "[[1,2],[3,2],[2,3],[1.5,4],[2.5,4]]";
        let text = format!("{{\"a.jpg\": {other}, \"x/a.jpg\": [10,20,30,20,20,30,13.5,40,27,40]}}");
        let landmarks = Landmarks::parse(&text).unwrap();
        assert_eq!(landmarks.of(Path::new("x/a.jpg")).unwrap(), FACE);
        assert_eq!(landmarks.of(Path::new("y/a.jpg")).unwrap().0[0], [1.0, 2.0]);
    }

    #[test]
    fn wrong_files_are_refused_with_what_is_wrong_and_what_is_expected() {
        for (text, said) in [
            ("", "empty"),
            ("1 2 3", "3 numbers instead of 10"),
            ("1 2 3 4 5 6 7 8 9 10 11 12", "12 numbers instead of 10"),
            ("1 2 3 4 5 6 7 8 9 nan", "not a coordinate"),
            ("1 2 3 4 5 6 7 8 9 inf", "not a coordinate"),
            ("1 2 3 4 5 6 7 8 9 ten", "`ten` is not a number"),
            ("[[1,2],[3,4]]", "2 points instead of 5"),
            ("[[1,2],[3,4],[5,6],[7,8],[9]]", "not [x, y]"),
            ("[[1,2],[3,4],[5,6],[7,8],[9,null]]", "not a number"),
            ("[[1,2],[3,4],[5,6],[7,8],[9,NaN]]", "not valid JSON"),
            ("[1e99,2,3,4,5,6,7,8,9,10]", "not a coordinate"),
            ("{}", "empty"),
            ("{\"a.jpg\": 5}", "entry `a.jpg`"),
            ("[[1,2],", "not valid JSON"),
        ] {
            let message = Landmarks::parse(text).unwrap_err().to_string();
            assert!(message.contains(said), "{text}: {message}");
            assert!(message.contains("five points"), "{text}: {message}");
        }
    }

    #[test]
    fn points_far_outside_or_normalised_are_refused() {
        assert!(FACE.check(40, 50).is_ok());
        assert!(FACE.check(28, 40).is_ok(), "a little outside is a face at the border");
        let message = FACE.check(12, 20).unwrap_err().to_string();
        assert!(message.contains("right eye") && message.contains("12x20"), "{message}");
        let normalised = FacePoints(FACE.0.map(|p| [p[0] / 40.0, p[1] / 50.0]));
        assert!(normalised.check(40, 50).unwrap_err().to_string().contains("between 0 and 1"));
    }

    #[test]
    fn swapped_sides_are_noticed_at_any_angle() {
        for degrees in [0.0f32, 40.0, 90.0, 180.0, 300.0] {
            let (sin, cos) = degrees.to_radians().sin_cos();
            let turned = FacePoints(FACE.0.map(|[x, y]| [x * cos - y * sin, x * sin + y * cos]));
            assert!(!turned.look_mirrored(), "{degrees}");
            let [a, b, c, d, e] = turned.0;
            assert!(FacePoints([b, a, c, e, d]).look_mirrored(), "{degrees}");
        }
    }
}
