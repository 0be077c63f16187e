//! The curves of a run: losses and scores over steps.

use super::{Line, TrainError};
use crate::drawing::Canvas;
use plotters::coord::Shift;
use plotters::prelude::*;
use std::cell::RefCell;
use std::rc::Rc;

/// Width and height in pixels.
const SIZE: (u32, u32) = (960, 720);

const LOSS: RGBColor = RGBColor(0, 114, 178);
const CROSS_ENTROPY: RGBColor = RGBColor(230, 159, 0);
const DICE: RGBColor = RGBColor(0, 158, 115);
const SCORE: RGBColor = RGBColor(213, 94, 0);
const RATE: RGBColor = RGBColor(102, 102, 102);

/// The curves as a picture.
///
/// # Errors
/// What the plotting library says.
pub fn png(title: &str, lines: &[Line]) -> Result<Canvas, TrainError> {
    let canvas = Rc::new(RefCell::new(Canvas::new(SIZE.0 as usize, SIZE.1 as usize, [255; 3])));
    draw(&DrawingArea::from(&canvas), title, lines)?;
    Ok(canvas.take())
}

/// The curves as SVG.
///
/// # Errors
/// What the plotting library says.
pub fn svg(title: &str, lines: &[Line]) -> Result<String, TrainError> {
    let mut svg = String::new();
    draw(&SVGBackend::with_string(&mut svg, SIZE).into_drawing_area(), title, lines)?;
    Ok(svg)
}

/// A curve: what it is of, its colour, its points.
type Curve = (&'static str, RGBColor, Vec<(f64, f64)>);

fn draw<B: DrawingBackend>(area: &DrawingArea<B, Shift>, title: &str, lines: &[Line]) -> Result<(), TrainError> {
    let mut losses: [Curve; 3] =
        [("cross-entropy", CROSS_ENTROPY, vec![]), ("dice", DICE, vec![]), ("loss", LOSS, vec![])];
    let mut rates: Curve = ("learning rate", RATE, vec![]);
    let mut scores: Curve = ("mean F1, %", SCORE, vec![]);
    for line in lines {
        match *line {
            Line::Steps { step, loss, cross_entropy, dice, learning_rate, .. } => {
                for ((_, _, points), value) in losses.iter_mut().zip([cross_entropy, dice, loss]) {
                    points.push((step as f64, value));
                }
                rates.2.push((step as f64, learning_rate));
            }
            Line::Validation { step, mean_f1, mean_f1_of_present, .. } => {
                scores.2.extend(mean_f1.or(mean_f1_of_present).map(|f1| (step as f64, 100.0 * f1)));
            }
            _ => {}
        }
    }
    let last = lines.iter().map(Line::step).max().unwrap_or(0).max(1) as f64;
    let failed = |error: DrawingAreaErrorKind<B::ErrorType>| TrainError::Curves(error.to_string());
    area.fill(&WHITE).map_err(failed)?;
    let (upper, lower) = area.split_vertically(SIZE.1 * 3 / 5);
    panel(&upper, title, "loss", last, &losses).map_err(failed)?;
    let below = if scores.2.is_empty() { rates } else { scores };
    panel(&lower, "", below.0, last, std::slice::from_ref(&below)).map_err(failed)?;
    area.present().map_err(failed)
}

fn panel<B: DrawingBackend>(
    area: &DrawingArea<B, Shift>,
    title: &str,
    what: &str,
    last: f64,
    curves: &[Curve],
) -> Result<(), DrawingAreaErrorKind<B::ErrorType>> {
    let values = || curves.iter().flat_map(|(_, _, points)| points).map(|(_, value)| *value);
    let highest = values().fold(0.0, f64::max);
    let top = if highest > 0.0 { 1.05 * highest } else { 1.0 };
    let mut chart = ChartBuilder::on(area);
    if !title.is_empty() {
        chart.caption(title, ("sans-serif", 18));
    }
    let mut chart = chart
        .margin(14)
        .margin_right(24)
        .x_label_area_size(38)
        .y_label_area_size(72)
        .build_cartesian_2d(0.0..last, 0.0..top)?;
    let number = |value: &f64| match value.abs() {
        0.0 => "0".to_owned(),
        1e-2..1e5 => format!("{:.3}", value).trim_end_matches('0').trim_end_matches('.').to_owned(),
        _ => format!("{value:.1e}"),
    };
    chart
        .configure_mesh()
        .x_desc("steps")
        .y_desc(what)
        .x_label_formatter(&number)
        .y_label_formatter(&number)
        .y_labels(8)
        .label_style(("sans-serif", 12))
        .light_line_style(RGBColor(244, 244, 244))
        .bold_line_style(RGBColor(220, 220, 220))
        .draw()?;
    for (name, color, points) in curves {
        let points: Vec<(f64, f64)> = points.iter().copied().filter(|(_, value)| value.is_finite()).collect();
        let color = *color;
        if points.len() == 1 {
            chart.draw_series(points.iter().map(|point| Circle::new(*point, 3, color.filled())))?;
        }
        let series = chart.draw_series(LineSeries::new(points, color.stroke_width(2)))?;
        if curves.len() > 1 {
            let key = move |(x, y)| PathElement::new([(x, y), (x + 18, y)], color.stroke_width(2));
            series.label(*name).legend(key);
        }
    }
    if curves.len() > 1 {
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperRight)
            .background_style(WHITE)
            .border_style(RGBColor(220, 220, 220))
            .label_font(("sans-serif", 12))
            .draw()?;
    }
    Ok(())
}
