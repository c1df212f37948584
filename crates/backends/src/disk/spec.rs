//! The text that names a disk: `FILE[,ro|,cow]`. A comma in a file's name is written `,,`.

use std::path::PathBuf;

/// How a disk's file is used.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Mode {
    /// The guest's writes go to the file.
    #[default]
    Write,
    /// `ro`: the guest's writes are refused.
    ReadOnly,
    /// `cow`: the guest may write, the file is never changed, the writes are gone at the end.
    CopyOnWrite,
}

/// A disk as the user names it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DiskSpec {
    /// The image or block device.
    pub file: PathBuf,
    /// How it is used.
    pub mode: Mode,
}

/// Why a text names no disk.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum DiskSpecError {
    /// No file name.
    #[error("disk `{0}`: no file is named; write FILE, FILE,ro or FILE,cow")]
    NoFile(String),
    /// An option that does not exist.
    #[error(
        "disk `{0}`: unknown option `{1}`; there are ro and cow, and a comma in a file's name is written ,,"
    )]
    Unknown(String, String),
    /// More than one option.
    #[error("disk `{0}`: give one of ro and cow, once")]
    Several(String),
}

impl core::str::FromStr for DiskSpec {
    type Err = DiskSpecError;

    fn from_str(text: &str) -> Result<DiskSpec, DiskSpecError> {
        let mut fields = vec![String::new()];
        let mut chars = text.chars().peekable();
        while let Some(c) = chars.next() {
            // Only the name has the escape; options have no commas.
            if c == ',' && !(fields.len() == 1 && chars.next_if_eq(&',').is_some()) {
                fields.push(String::new());
            } else if let Some(field) = fields.last_mut() {
                field.push(c);
            }
        }
        let mut fields = fields.into_iter();
        let file = fields.next().unwrap_or_default();
        if file.is_empty() {
            return Err(DiskSpecError::NoFile(text.into()));
        }
        let mut mode = None;
        for option in fields {
            let found = match option.as_str() {
                "ro" => Mode::ReadOnly,
                "cow" => Mode::CopyOnWrite,
                _ => return Err(DiskSpecError::Unknown(text.into(), option)),
            };
            if mode.replace(found).is_some() {
                return Err(DiskSpecError::Several(text.into()));
            }
        }
        Ok(DiskSpec {
            file: file.into(),
            mode: mode.unwrap_or_default(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: Result<(&str, Mode), &str>) {
        let found = text.parse::<DiskSpec>();
        match (found, expected) {
            (Ok(spec), Ok((file, mode))) => {
                assert_eq!((spec.file, spec.mode), (file.into(), mode), "{text}");
            }
            (Err(e), Err(part)) => assert!(e.to_string().contains(part), "{text}: {e}"),
            (found, expected) => panic!("{text}: {found:?}, expected {expected:?}"),
        }
    }

    #[test]
    fn a_disk_is_named_by_its_file_and_at_most_one_option() {
        check("disk.img", Ok(("disk.img", Mode::Write)));
        check("disk.img,ro", Ok(("disk.img", Mode::ReadOnly)));
        check("/a b/disk,cow", Ok(("/a b/disk", Mode::CopyOnWrite)));
        check("a,,b.img", Ok(("a,b.img", Mode::Write)));
        check("a,,ro", Ok(("a,ro", Mode::Write)));
        check("a,,,ro", Ok(("a,", Mode::ReadOnly)));
        check("", Err("no file is named"));
        check(",ro", Err("no file is named"));
        check("disk.img,rw", Err("unknown option `rw`"));
        check("disk.img,", Err("unknown option ``"));
        check("disk.img,ro,cow", Err("one of ro and cow"));
        check("disk.img,ro,ro", Err("once"));
    }
}
