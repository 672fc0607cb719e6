//! A chart as an SVG picture: panels with axes, units and a legend; machine and date below.

use super::chart::{Chart, Form, Panel, short, tick};
use anyhow::{Result, anyhow};
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// Size of a panel in pixels.
const PANEL: (u32, u32) = (520, 340);
/// Height of the title above and of the line below, in pixels.
const TITLE: u32 = 56;
const FOOTER: u32 = 28;
/// Height of a panel's title and of its legend, width of its y axis, in pixels.
const CAPTION: u32 = 24;
const LEGEND: u32 = 20;
const Y_AXIS: u32 = 64;
/// Colours of series that also the colour-blind can tell apart (Okabe and Ito).
const COLOURS: [RGBColor; 6] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(86, 180, 233),
    RGBColor(230, 159, 0),
];

/// Draws the chart.
pub(super) fn svg(chart: &Chart) -> Result<String> {
    let panels = &chart.drawing.panels;
    let columns = panels.len().clamp(1, 2) as u32;
    let rows = (panels.len() as u32).div_ceil(columns);
    let size = (PANEL.0 * columns, PANEL.1 * rows + TITLE + FOOTER);
    let mut text = String::new();
    {
        let root = SVGBackend::with_string(&mut text, size).into_drawing_area();
        draw(&root, chart, (rows as usize, columns as usize)).map_err(|fault| anyhow!("drawing: {fault}"))?;
    }
    Ok(text)
}

fn draw(root: &Area<'_>, chart: &Chart, grid: (usize, usize)) -> Result<(), Box<dyn std::error::Error>> {
    root.fill(&WHITE)?;
    let (width, height) = root.dim_in_pixel();
    let centred = |size: i32| {
        ("sans-serif", size).into_font().into_text_style(root).pos(Pos::new(HPos::Center, VPos::Center))
    };
    let middle = width as i32 / 2;
    root.draw_text(chart.title, &centred(22), (middle, 20))?;
    root.draw_text(
        &chart.line(),
        &centred(if chart.guests.is_some() { 11 } else { 14 }),
        (middle, (height - FOOTER / 2) as i32),
    )?;
    let panels = root.margin(TITLE - 16, FOOTER, 0, 0).split_evenly(grid);
    for (area, panel) in panels.iter().zip(&chart.drawing.panels) {
        match panel.form {
            Form::Lines => lines(area, panel)?,
            Form::Bars => bars(area, panel)?,
        }
    }
    root.present()?;
    Ok(())
}

/// The largest value, with room above it.
fn top(panel: &Panel) -> f64 {
    let largest = panel.series.iter().flat_map(|series| &series.values).copied().fold(0.0, f64::max);
    if largest > 0.0 { largest * 1.15 } else { 1.0 }
}

fn write_caption(area: &Area<'_>, panel: &Panel) -> Result<(), Box<dyn std::error::Error>> {
    let (width, height) = area.dim_in_pixel();
    let style =
        ("sans-serif", 15).into_font().into_text_style(area).pos(Pos::new(HPos::Center, VPos::Center));
    Ok(area.draw_text(panel.title, &style, (width as i32 / 2, height as i32 / 2))?)
}

/// The name of each series beside its colour, in a row.
fn legend(area: &Area<'_>, panel: &Panel) -> Result<(), Box<dyn std::error::Error>> {
    let (width, height) = area.dim_in_pixel();
    let (y, step) = (height as i32 / 2, (width - Y_AXIS) as usize / panel.series.len().max(1));
    let style = ("sans-serif", 12).into_font().into_text_style(area).pos(Pos::new(HPos::Left, VPos::Center));
    for ((index, series), colour) in panel.series.iter().enumerate().zip(COLOURS.iter().cycle()) {
        let x = Y_AXIS as i32 + (index * step) as i32;
        area.draw(&PathElement::new([(x, y), (x + 16, y)], colour.stroke_width(3)))?;
        area.draw_text(&series.name, &style, (x + 22, y))?;
    }
    Ok(())
}

fn lines(area: &Area<'_>, panel: &Panel) -> Result<(), Box<dyn std::error::Error>> {
    let (top_of_area, area) = area.split_vertically(CAPTION + LEGEND);
    let (caption, names) = top_of_area.split_vertically(CAPTION);
    write_caption(&caption, panel)?;
    legend(&names, panel)?;
    let count = panel.categories.len() as i32;
    let label = |place: &i32| panel.categories.get(*place as usize).cloned().unwrap_or_default();
    let mut axes = ChartBuilder::on(&area)
        .margin(8)
        .margin_right(20)
        .x_label_area_size(40)
        .y_label_area_size(Y_AXIS)
        .build_cartesian_2d(0..(count - 1).max(1), 0.0..top(panel))?;
    axes.configure_mesh()
        .disable_x_mesh()
        .light_line_style(TRANSPARENT)
        .x_labels(count as usize)
        .x_label_formatter(&label)
        .y_label_formatter(&|value| tick(*value))
        .y_labels(6)
        .label_style(("sans-serif", 13))
        .axis_desc_style(("sans-serif", 14))
        .x_desc(panel.x)
        .y_desc(panel.y)
        .draw()?;
    for (series, colour) in panel.series.iter().zip(COLOURS.iter().cycle()) {
        let points = || (0i32..).zip(series.values.iter().copied());
        axes.draw_series(LineSeries::new(points(), colour.stroke_width(2)))?;
        axes.draw_series(points().map(|point| Circle::new(point, 3, colour.filled())))?;
    }
    Ok(())
}

fn bars(area: &Area<'_>, panel: &Panel) -> Result<(), Box<dyn std::error::Error>> {
    let (caption, area) = area.split_vertically(CAPTION);
    write_caption(&caption, panel)?;
    let count = panel.categories.len() as i32;
    let label = |place: &SegmentValue<i32>| match place {
        SegmentValue::CenterOf(place) => panel.categories.get(*place as usize).cloned().unwrap_or_default(),
        SegmentValue::Exact(_) | SegmentValue::Last => String::new(),
    };
    let mut axes = ChartBuilder::on(&area)
        .margin(8)
        .margin_right(20)
        .x_label_area_size(40)
        .y_label_area_size(Y_AXIS)
        .build_cartesian_2d((0..(count - 1).max(0)).into_segmented(), 0.0..top(panel))?;
    axes.configure_mesh()
        .disable_x_mesh()
        .light_line_style(TRANSPARENT)
        .x_labels(count as usize)
        .x_label_formatter(&label)
        .y_label_formatter(&|value| tick(*value))
        .y_labels(6)
        .label_style(("sans-serif", 13))
        .axis_desc_style(("sans-serif", 14))
        .x_desc(panel.x)
        .y_desc(panel.y)
        .draw()?;
    let values = panel.series.iter().take(1).flat_map(|series| &series.values).copied();
    axes.draw_series((0i32..).zip(values).map(|(place, value)| {
        let colour = COLOURS[place as usize % COLOURS.len()];
        let corners = [(SegmentValue::Exact(place), 0.0), (SegmentValue::Exact(place + 1), value)];
        let mut bar = Rectangle::new(corners, colour.filled());
        bar.set_margin(0, 0, 18, 18);
        bar
    }))?;
    let values = panel.series.iter().take(1).flat_map(|series| &series.values).copied();
    let above =
        ("sans-serif", 12).into_font().into_text_style(&area).pos(Pos::new(HPos::Center, VPos::Bottom));
    axes.draw_series((0i32..).zip(values).map(|(place, value)| {
        Text::new(short(value), (SegmentValue::CenterOf(place), value + top(panel) * 0.02), above.clone())
    }))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::Effort;
    use crate::bench::chart::{Drawing, Series, Table, Verdict};
    use crate::bench::machine::Machine;

    fn panel(form: Form, names: &[&str]) -> Panel {
        Panel {
            title: "Rate <of> \"all\" & more",
            x: "size, bytes",
            y: "transactions per second",
            form,
            categories: vec!["16".into(), "64".into(), "256".into()],
            series: names.iter().map(|name| Series::new(name, [1.0, 12_345.0, 6e6])).collect(),
        }
    }

    fn chart(panels: Vec<Panel>) -> Chart {
        Chart {
            name: "layout",
            title: "A title",
            machine: Machine::here(),
            guests: None,
            effort: Effort::default(),
            left_out: false,
            drawing: Drawing {
                verdict: Verdict::new(true, "it is", ""),
                table: Table::default(),
                panels,
                measurements: serde_json::Value::Null,
            },
        }
    }

    fn words(svg: &str) -> Vec<String> {
        let document = roxmltree::Document::parse(svg).unwrap();
        assert!(document.root_element().has_tag_name(("http://www.w3.org/2000/svg", "svg")));
        let texts = document.descendants().filter(|node| node.tag_name().name() == "text");
        texts.filter_map(|node| node.text()).map(|text| text.trim().to_owned()).collect()
    }

    #[test]
    fn pictures_are_xml_with_titles_axes_legend_and_machine() {
        let chart = chart(vec![panel(Form::Lines, &["first", "second"]), panel(Form::Bars, &["only"])]);
        let words = words(&svg(&chart).unwrap());
        let has = |text: &str| words.iter().filter(|word| *word == text).count();
        assert_eq!((has("size, bytes"), has("transactions per second")), (2, 2));
        assert_eq!((has("Rate <of> \"all\" & more"), has("first"), has("second")), (2, 1, 1));
        assert_eq!((has("16"), has("64"), has("256")), (2, 2, 2), "{words:?}");
        assert_eq!((has("A title"), has(&chart.machine.line())), (1, 1));
        assert_eq!((has("6.00 M"), has("12.3 k")), (1, 1), "the values stand above their bars: {words:?}");
    }

    #[test]
    fn nothing_measured_is_still_a_picture() {
        let mut empty = panel(Form::Lines, &["one"]);
        empty.categories.truncate(1);
        empty.series[0].values = vec![0.0];
        assert!(words(&svg(&chart(vec![empty])).unwrap()).contains(&"16".to_owned()));
    }
}
