//! The roofline plot: what rate each kernel reaches, over how many operations it does for each byte.

use plotters::coord::Shift;
use plotters::prelude::*;
use std::fmt::Write;

/// The rates that nothing exceeds.
#[derive(Debug, Clone)]
pub struct Roof {
    /// What it is of, for the caption.
    pub name: String,
    /// FLOP/s.
    pub flops: f64,
    /// Bytes/s of memory.
    pub bandwidth: f64,
    /// Bytes/s of the last cache, above which nothing lies that it holds.
    pub cache: Option<f64>,
    /// A lower line below each: the share that is counted on.
    pub achievable: Option<[f64; 2]>,
}

/// A kernel.
#[derive(Debug, Clone)]
pub struct Dot {
    /// Its folder, which gives it its colour.
    pub room: String,
    /// What the mouse shows.
    pub title: String,
    /// Floating-point operations.
    pub flops: f64,
    /// Bytes.
    pub bytes: f64,
    /// Seconds.
    pub seconds: f64,
}

/// Width and height in pixels.
const SIZE: (u32, u32) = (960, 540);

/// Colours that are told apart also by those who see few: Okabe and Ito's, then Tol's.
const COLOURS: [(u8, u8, u8); 14] = [
    (0, 114, 178),
    (230, 159, 0),
    (0, 158, 115),
    (213, 94, 0),
    (204, 121, 167),
    (86, 180, 233),
    (148, 138, 28),
    (51, 34, 136),
    (136, 34, 85),
    (17, 119, 51),
    (170, 68, 153),
    (102, 102, 102),
    (221, 119, 136),
    (68, 170, 153),
];

/// The plot as SVG, on logarithmic axes. Kernels without arithmetic have no place in it.
///
/// # Errors
/// What the plotting library says.
pub fn plot(caption: &str, roof: &Roof, dots: &[Dot]) -> Result<String, String> {
    let mut svg = String::new();
    let (placed, labels) = {
        let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        draw(&area, caption, roof, dots).map_err(|error| error.to_string())?
    };
    let mut extra = String::new();
    for (text, (x, y)) in labels {
        let (x, y) = (x - 8, y - 7);
        let _ = writeln!(
            extra,
            "<text x=\"{x}\" y=\"{y}\" text-anchor=\"end\" font-family=\"sans-serif\" font-size=\"11\" \
             fill=\"#444\">{}</text>",
            escape(&text)
        );
    }
    let rooms = rooms(dots);
    for (dot, (x, y)) in placed {
        let index = rooms.iter().position(|room| *room == dot.room).unwrap_or(0);
        let _ = writeln!(
            extra,
            "<circle cx=\"{x}\" cy=\"{y}\" r=\"4.5\" fill=\"{}\" fill-opacity=\"0.75\" stroke=\"#fff\" \
             stroke-width=\"0.7\"><title>{}</title></circle>",
            hex(index),
            escape(&dot.title)
        );
    }
    for (index, room) in rooms.iter().enumerate() {
        let y = 70 + 18 * index;
        let _ = writeln!(
            extra,
            "<circle cx=\"800\" cy=\"{y}\" r=\"5\" fill=\"{}\"/><text x=\"812\" y=\"{}\" font-family=\"sans-serif\" \
             font-size=\"12\">{}</text>",
            hex(index),
            y + 4,
            escape(room)
        );
    }
    let end = svg.rfind("</svg>").ok_or("the plot has no end")?;
    svg.insert_str(end, &extra);
    Ok(svg)
}

/// Folders that have dots, in alphabetical order.
fn rooms(dots: &[Dot]) -> Vec<&str> {
    let mut rooms: Vec<&str> = dots.iter().filter(|dot| dot.flops > 0.0).map(|dot| dot.room.as_str()).collect();
    rooms.sort_unstable();
    rooms.dedup();
    rooms
}

fn hex(index: usize) -> String {
    let (r, g, b) = COLOURS[index % COLOURS.len()];
    format!("#{r:02x}{g:02x}{b:02x}")
}

/// Text for SVG and HTML.
pub(super) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// Where dots lie, in pixels, and labels of the roofs: each a point of its line, above which it is written.
type Placed<'d> = (Vec<(&'d Dot, (i32, i32))>, Vec<(String, (i32, i32))>);

/// Draws axes and roofs, and says where the rest goes.
fn draw<'d>(
    area: &DrawingArea<SVGBackend<'_>, Shift>,
    caption: &str,
    roof: &Roof,
    dots: &'d [Dot],
) -> Result<Placed<'d>, Box<dyn std::error::Error>> {
    let points: Vec<(&Dot, f64, f64)> = dots
        .iter()
        .filter(|dot| dot.flops > 0.0 && dot.bytes > 0.0 && dot.seconds > 0.0)
        .map(|dot| (dot, dot.flops / dot.bytes, dot.flops / dot.seconds / 1e9))
        .collect();
    let top = roof.flops / 1e9;
    let ridge = roof.flops / roof.bandwidth;
    let least = |values: &dyn Fn(&(&Dot, f64, f64)) -> f64, start: f64| points.iter().map(values).fold(start, f64::min);
    let most = |values: &dyn Fn(&(&Dot, f64, f64)) -> f64, start: f64| points.iter().map(values).fold(start, f64::max);
    let decade = |value: f64, up: bool| 10f64.powf(if up { value.log10().ceil() } else { value.log10().floor() });
    let x_range = decade(least(&|p| p.1, ridge / 10.0), false)..decade(most(&|p| p.1, ridge * 3.0), true);
    let y_range = decade(least(&|p| p.2, top / 100.0), false)..decade(top * 1.01, true);

    area.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(area)
        .caption(caption, ("sans-serif", 17))
        .margin(12)
        .margin_right(175)
        .x_label_area_size(42)
        .y_label_area_size(64)
        .build_cartesian_2d(x_range.clone().log_scale(), y_range.clone().log_scale())?;
    let number = |value: &f64| if *value >= 1.0 { format!("{value:.0}") } else { format!("{value}") };
    chart
        .configure_mesh()
        .x_desc("FLOP per byte")
        .y_desc("GFLOP/s")
        .x_label_formatter(&number)
        .y_label_formatter(&number)
        .label_style(("sans-serif", 12))
        .light_line_style(RGBColor(240, 240, 240))
        .bold_line_style(RGBColor(215, 215, 215))
        .draw()?;
    let line = |flops: f64, bandwidth: f64| {
        let at = |x: f64| (x, (x * bandwidth / 1e9).min(flops / 1e9).max(y_range.start));
        let start = (y_range.start * 1e9 / bandwidth).max(x_range.start);
        [at(start), at((flops / bandwidth).max(start)), at(x_range.end)]
    };
    chart.draw_series(LineSeries::new(line(roof.flops, roof.bandwidth), BLACK.stroke_width(2)))?;
    if let Some([flops, bandwidth]) = roof.achievable {
        let points = line(roof.flops * flops, roof.bandwidth * bandwidth);
        chart.draw_series(LineSeries::new(points, RGBColor(120, 120, 120).stroke_width(1)))?;
    }
    if let Some(cache) = roof.cache {
        chart.draw_series(LineSeries::new(line(roof.flops, cache), RGBColor(150, 170, 200).stroke_width(1)))?;
    }
    let middle = (x_range.start * ridge).sqrt();
    let on = |x: f64, bandwidth: f64| (x, (x * bandwidth / 1e9).min(top));
    let mut labels = vec![
        (format!("{top:.0} GFLOP/s"), chart.backend_coord(&(x_range.end, top))),
        (format!("memory {:.0} GB/s", roof.bandwidth / 1e9), chart.backend_coord(&on(middle, roof.bandwidth))),
    ];
    if let Some(cache) = roof.cache {
        labels.push((format!("L2 {:.0} GB/s", cache / 1e9), chart.backend_coord(&on(6.0 * middle, cache))));
    }
    area.present()?;
    Ok((points.into_iter().map(|(dot, x, y)| (dot, chart.backend_coord(&(x, y)))).collect(), labels))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dot(room: &str, flops: f64) -> Dot {
        Dot { room: room.into(), title: format!("{room} <1>"), flops, bytes: 1e6, seconds: 1e-5 }
    }

    /// `cx` and `cy` of the circles that have a title.
    fn circles(svg: &str) -> Vec<(f64, f64)> {
        let number = |line: &str, name: &str| -> f64 {
            let begin = line.find(&format!("{name}=\"")).unwrap() + name.len() + 2;
            line[begin..].split('"').next().unwrap().parse().unwrap()
        };
        let lines = svg.lines().filter(|line| line.contains("<title>"));
        lines.map(|line| (number(line, "cx"), number(line, "cy"))).collect()
    }

    #[test]
    fn dots_lie_by_their_rate_and_those_without_arithmetic_are_left_out() {
        let roof =
            Roof { name: "card".into(), flops: 1e14, bandwidth: 1e12, cache: Some(3e12), achievable: Some([0.8, 0.9]) };
        let svg = plot("caption", &roof, &[dot("a", 1e7), dot("b", 1e8), dot("c", 1e9), dot("none", 0.0)]).unwrap();
        let at = circles(&svg);
        assert_eq!(at.len(), 3);
        // A factor of ten in FLOPs with equal bytes and times: equal steps right and up.
        assert!((at[1].0 - at[0].0 - (at[2].0 - at[1].0)).abs() <= 2.0 && at[1].0 > at[0].0, "{at:?}");
        assert!((at[1].1 - at[0].1 - (at[2].1 - at[1].1)).abs() <= 2.0 && at[1].1 < at[0].1, "{at:?}");
        assert!(svg.contains("a &lt;1&gt;") && !svg.contains("none &lt;"));
    }

    #[test]
    fn nothing_to_show_is_no_error() {
        let roof = Roof { name: "card".into(), flops: 1e14, bandwidth: 1e12, cache: None, achievable: None };
        assert!(circles(&plot("caption", &roof, &[]).unwrap()).is_empty());
    }
}
