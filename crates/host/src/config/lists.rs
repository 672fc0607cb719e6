//! Arrays of the file, and values that may be of more than one type. The accessors are the [`Reader`]'s, in its manner:
//! what is wrong is noted, and the walk goes on.

use std::collections::HashSet;
use std::fmt::Display;
use std::hash::Hash;
use std::ops::RangeInclusive;

use toml::de::DeValue;

use super::raw::{Place, Reader, Section};

/// The type of a value, where the file leaves a choice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// A string.
    Text,
    /// An integer.
    Number,
    /// A table.
    Table,
    /// An array.
    List,
    /// None of these.
    Other,
}

impl Shape {
    fn of(value: &DeValue<'_>) -> Shape {
        match value {
            DeValue::String(_) => Shape::Text,
            DeValue::Integer(_) => Shape::Number,
            DeValue::Table(_) => Shape::Table,
            DeValue::Array(_) => Shape::List,
            _ => Shape::Other,
        }
    }
}

/// An element of an array.
pub(crate) struct Element<'d, 'i> {
    pub(crate) place: Place,
    value: &'d DeValue<'i>,
}

impl Element<'_, '_> {
    /// Its type.
    pub(crate) fn shape(&self) -> Shape {
        Shape::of(self.value)
    }
}

impl Reader {
    /// The type of what is written under `key`.
    pub(crate) fn shape(&self, section: &Section<'_, '_>, key: &str) -> Option<Shape> {
        section.table.get(key).map(|value| Shape::of(value.get_ref()))
    }

    /// The elements of the array under `key`, `len_max` at most.
    pub(crate) fn list<'d, 'i>(
        &mut self,
        section: &Section<'d, 'i>,
        key: &str,
        len_max: usize,
        accepted: &str,
    ) -> Option<(Vec<Element<'d, 'i>>, Place)> {
        let (value, place) = self.value(section, key)?;
        let DeValue::Array(array) = value else {
            self.mistyped(&place, value, "an array", accepted);
            return None;
        };
        if array.len() > len_max {
            let what = format!("has {} elements", array.len());
            self.refuse(&place, what, format!("at most {len_max} elements"));
        }
        let elements = array.iter().take(len_max).enumerate().map(|(index, element)| Element {
            place: Place {
                field: format!("{}[{index}]", place.field),
                line: self.line_of(element.span().start),
            },
            value: element.get_ref(),
        });
        Some((elements.collect(), place))
    }

    /// The elements of the array under `key`, each as `read` understands it and none twice.
    pub(crate) fn distinct<T: Clone + Eq + Hash + Display>(
        &mut self,
        section: &Section<'_, '_>,
        key: &str,
        len_max: usize,
        accepted: &str,
        mut read: impl FnMut(&mut Reader, &Element<'_, '_>) -> Option<T>,
    ) -> Option<(Vec<(T, Place)>, Place)> {
        let (elements, place) = self.list(section, key, len_max, accepted)?;
        let mut seen = HashSet::new();
        let mut values = Vec::new();
        for element in elements {
            let Some(value) = read(self, &element) else { continue };
            if seen.insert(value.clone()) {
                values.push((value, element.place));
            } else {
                self.refuse(&element.place, format!("{value} is listed twice"), accepted);
            }
        }
        Some((values, place))
    }

    /// The array of integers under `key`, each in `range` and none twice; as many as the range has at most.
    pub(crate) fn integers(
        &mut self,
        section: &Section<'_, '_>,
        key: &str,
        range: RangeInclusive<usize>,
    ) -> Option<(Vec<usize>, Place)> {
        let accepted = format!("a list of different whole numbers from {} to {}", range.start(), range.end());
        let len_max = range.end() - range.start() + 1;
        let (numbers, place) = self.distinct(section, key, len_max, &accepted, |reader, element| {
            reader.element_number(element, &range, &accepted)
        })?;
        Some((numbers.into_iter().map(|(number, _)| number).collect(), place))
    }

    /// The integer that an element is, which must lie in `range`.
    pub(crate) fn element_number(
        &mut self,
        element: &Element<'_, '_>,
        range: &RangeInclusive<usize>,
        accepted: &str,
    ) -> Option<usize> {
        self.number(element.value, &element.place, range, accepted)
    }

    /// The string that an element is, converted; what `convert` finds wrong becomes a mistake.
    pub(crate) fn element_parsed<T>(
        &mut self,
        element: &Element<'_, '_>,
        accepted: &str,
        convert: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        let DeValue::String(text) = element.value else {
            self.mistyped(&element.place, element.value, "a string", accepted);
            return None;
        };
        convert(text).map_err(|what| self.refuse(&element.place, what, accepted)).ok()
    }

    /// The table that an element is.
    pub(crate) fn element_table<'d, 'i>(
        &mut self,
        element: &Element<'d, 'i>,
        accepted: &str,
    ) -> Option<Section<'d, 'i>> {
        let DeValue::Table(table) = element.value else {
            self.mistyped(&element.place, element.value, "a table", accepted);
            return None;
        };
        Some(Section { place: element.place.clone(), table })
    }
}
