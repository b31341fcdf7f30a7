//! Columns aligned by blanks, as Go's tabwriter aligns them: a cell ends with a tab, the last one of a line with the line.

/// Docker's tables.
pub const STANDARD: Layout = Layout { minimum: 10, padding: 3 };
/// The table of `top`.
pub const WIDE: Layout = Layout { minimum: 20, padding: 3 };

/// How wide columns are.
#[derive(Debug, Clone, Copy)]
pub struct Layout {
    /// Narrowest column, with its padding.
    pub minimum: usize,
    /// Blanks after the widest cell.
    pub padding: usize,
}

impl Layout {
    /// Aligns lines whose cells are separated by tabs. A column is a run of lines that have a cell there.
    pub fn align(self, text: &str) -> String {
        let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split('\t').collect()).collect();
        let mut widths: Vec<Vec<usize>> = lines.iter().map(|cells| vec![0; cells.len()]).collect();
        let columns = lines.iter().map(Vec::len).max().unwrap_or(0);
        for column in 0..columns {
            let mut start = 0;
            while start < lines.len() {
                // The last cell of a line is not followed by a tab and so is in no column.
                let in_column = |line: usize| column + 1 < lines[line].len();
                if !in_column(start) {
                    start += 1;
                    continue;
                }
                let end = (start..lines.len()).find(|line| !in_column(*line)).unwrap_or(lines.len());
                let widest = (start..end).map(|line| lines[line][column].chars().count() + self.padding).max();
                let width = widest.unwrap_or(0).max(self.minimum);
                widths[start..end].iter_mut().for_each(|line| line[column] = width);
                start = end;
            }
        }
        let mut out = String::with_capacity(text.len() * 2);
        for (cells, widths) in lines.iter().zip(&widths) {
            for (cell, width) in cells.iter().zip(widths) {
                out.push_str(cell);
                out.extend(std::iter::repeat_n(' ', width.saturating_sub(cell.chars().count())));
            }
            out.push('\n');
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_go_makes_them() {
        assert_eq!(
            STANDARD.align("CONTAINER ID\tIMAGE\tNAMES\nabcdefabcdef\tdebian:12-slim\tx\n"),
            "CONTAINER ID   IMAGE            NAMES\nabcdefabcdef   debian:12-slim   x\n"
        );
        assert_eq!(STANDARD.align("A\tB\n"), "A         B\n");
        assert_eq!(STANDARD.align("é\tB\nab\n"), "é         B\nab\n");
    }
}
