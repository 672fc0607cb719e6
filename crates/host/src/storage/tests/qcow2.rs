//! QCOW2: what is accepted of an image, and what of the images that it names.

use super::super::{Format, HeaderFault, ImageError};
use super::*;
use imago::file::File as ImageFile;
use imago::qcow2::Qcow2 as Layer;
use imago::{FormatCreateBuilder, Storage, StorageCreateOptions};
use proptest::prelude::*;
use std::os::unix::fs::FileExt;

const SIZE: u64 = 8 << 20;

/// A new image of `size` bytes; `backing`: the name and format that it says it builds on.
pub(super) fn create(place: &Path, name: &str, size: u64, backing: Option<(&str, &str)>) -> PathBuf {
    let path = place.join(name);
    let _none = std::fs::remove_file(&path);
    let file = ImageFile::create_open(StorageCreateOptions::new().filename(&path)).unwrap();
    let mut builder = Layer::<ImageFile>::create_builder(file).size(size);
    if let Some((name, format)) = backing {
        builder = builder.backing(name.to_owned(), format.to_owned());
    }
    builder.create().unwrap();
    path
}

fn options(backing: bool) -> Options {
    Options { format: Format::Qcow2, backing, ..Options::default() }
}

/// What is said of an image whose header has `bytes` at `at`.
fn patched(at: u64, bytes: &[u8], read_only: bool) -> Result<Image, ImageError> {
    let place = tempfile::tempdir().unwrap();
    let path = create(place.path(), "disk", SIZE, None);
    std::fs::File::options().write(true).open(&path).unwrap().write_all_at(bytes, at).unwrap();
    Image::open(&path, &Options { read_only, ..options(true) })
}

fn refused(at: u64, bytes: &[u8]) -> HeaderFault {
    match patched(at, bytes, false) {
        Err(ImageError::Header { fault, .. }) => fault,
        other => panic!("{bytes:x?} at {at}: {other:?}"),
    }
}

#[test]
fn every_field_of_the_header_is_looked_at() {
    let image = patched(0, b"QFI\xfb", false).unwrap();
    assert_eq!((image.capacity(), image.shape().optimal_io), (SIZE, 65536));
    let be32 = |number: u32| number.to_be_bytes();
    let be64 = |number: u64| number.to_be_bytes();
    assert_eq!(refused(0, b"QFI\xfc"), HeaderFault::Magic);
    assert_eq!(refused(4, &be32(4)), HeaderFault::Version(4));
    assert_eq!(refused(4, &be32(1)), HeaderFault::Version(1));
    for bits in [0, 8, 22, u32::MAX] {
        assert_eq!(refused(20, &be32(bits)), HeaderFault::ClusterBits(bits));
    }
    for size in [u64::MAX, 1 << 56, 513] {
        assert_eq!(refused(24, &be64(size)), HeaderFault::Size(size));
    }
    assert!(matches!(refused(24, &be64(1 << 55)), HeaderFault::Table("l1_table_offset, l1_size")));
    for method in [1, 2, u32::MAX] {
        assert_eq!(refused(32, &be32(method)), HeaderFault::Encrypted(method));
    }
    for entries in [0, u32::MAX, (32 << 20) / 8 + 1] {
        assert!(matches!(refused(36, &be32(entries)), HeaderFault::Table("l1_table_offset, l1_size")));
    }
    for offset in [0, 1, 512, u64::MAX, u64::MAX - 65535, 1 << 40] {
        assert!(matches!(refused(40, &be64(offset)), HeaderFault::Table("l1_table_offset, l1_size")));
        assert!(matches!(refused(48, &be64(offset)), HeaderFault::Table(_)));
    }
    for clusters in [0, 129, u32::MAX] {
        assert!(matches!(refused(56, &be32(clusters)), HeaderFault::Table(_)));
    }
    assert_eq!(refused(60, &be32(1)), HeaderFault::Snapshots(1));
    for bit in [0, 1, 2, 3, 4, 5, 63] {
        assert_eq!(refused(72, &be64(1 << bit)), HeaderFault::Features(1 << bit));
    }
    assert_eq!(refused(96, &be32(7)), HeaderFault::RefcountOrder(7));
    for len in [0, 72, 103, 105, 65544, u32::MAX] {
        assert_eq!(refused(100, &be32(len)), HeaderFault::HeaderLength(len));
    }
    for (offset, len) in [(1, 5), (112, 0), (112, 1024), (65530, 10), (u64::MAX, 10)] {
        let bytes: Vec<u8> = be64(offset).into_iter().chain(be32(len)).collect();
        assert_eq!(refused(8, &bytes), HeaderFault::BackingName, "{offset} {len}");
    }
}

#[test]
fn a_file_that_is_no_image_is_refused() {
    for bytes in [&b""[..], b"QFI\xfb", &[0; 4096]] {
        let (_place, path) = file(bytes);
        let error = Image::open(&path, &options(false)).unwrap_err();
        assert!(matches!(error, ImageError::Header { fault: HeaderFault::Magic, .. }), "{error}");
    }
}

fn byte_at(image: &Arc<Image>, offset: u64) -> u8 {
    let guest = Guest::new();
    let mut engine = engine(image, EngineKind::Auto);
    assert_eq!(run(&mut engine, Work::Read(extent(offset, 512)), &guest.data(0, 512, &[])), Ok(()));
    guest.get(0, 1)[0]
}

#[test]
fn an_image_builds_on_another_only_where_that_is_allowed() {
    let place = tempfile::tempdir().unwrap();
    std::fs::write(place.path().join("base"), vec![6; SIZE as usize]).unwrap();
    create(place.path(), "middle", SIZE, Some(("base", "raw")));
    let path = create(place.path(), "top", SIZE, Some(("middle", "qcow2")));
    let error = Image::open(&path, &options(false)).unwrap_err();
    assert!(matches!(&error, ImageError::Backing { name, .. } if name == "middle"), "{error}");
    let image = open(&path, &options(true));
    assert_eq!(byte_at(&image, 4096), 6);
    // Whoever writes to what others build on is refused, and what is written stays in the upper image.
    assert!(matches!(
        Image::open(&place.path().join("base"), &Options::default()),
        Err(ImageError::InUse { .. })
    ));
    let guest = Guest::new();
    let mut engine = engine(&image, EngineKind::Auto);
    assert_eq!(run(&mut engine, write_to(extent(4096, 512)), &guest.data(0, 512, &[])), Ok(()));
    assert_eq!((byte_at(&image, 4096), byte_at(&image, 4608)), (0, 6));
    assert!(std::fs::read(place.path().join("base")).unwrap().iter().all(|byte| *byte == 6));
}

#[test]
fn an_image_does_not_lead_out_of_its_directory_nor_in_a_circle() {
    let outer = tempfile::tempdir().unwrap();
    std::fs::write(outer.path().join("secret"), vec![1; 4096]).unwrap();
    let inner = outer.path().join("inner");
    std::fs::create_dir(&inner).unwrap();
    std::os::unix::fs::symlink("../secret", inner.join("link")).unwrap();
    let absolute = outer.path().join("secret").display().to_string();
    for name in ["../secret", "link", &absolute, "/proc/self/mem", "./../inner/../secret"] {
        let path = create(&inner, "disk", SIZE, Some((name, "raw")));
        let error = Image::open(&path, &options(true)).unwrap_err();
        assert!(matches!(&error, ImageError::Backing { .. }), "{name}: {error}");
    }
    for name in ["nbd:localhost:1", "json:{}", "fat:rw:."] {
        let path = create(&inner, "disk", SIZE, Some((name, "raw")));
        assert!(
            matches!(Image::open(&path, &options(true)), Err(ImageError::Open { .. })),
            "only a file's name"
        );
    }
    let path = create(&inner, "disk", SIZE, Some((".", "raw")));
    assert!(matches!(Image::open(&path, &options(true)), Err(ImageError::Backing { .. })));
    let path = create(&inner, "disk", SIZE, Some(("disk", "qcow2")));
    let error = Image::open(&path, &options(true)).unwrap_err();
    assert!(error.to_string().contains("circle"), "{error}");
    create(&inner, "one", SIZE, Some(("two", "qcow2")));
    create(&inner, "two", SIZE, Some(("one", "qcow2")));
    let error = Image::open(&inner.join("one"), &options(true)).unwrap_err();
    assert!(error.to_string().contains("circle"), "{error}");
    for index in 0..20 {
        create(&inner, &format!("chain{index}"), SIZE, Some((&format!("chain{}", index + 1), "qcow2")));
    }
    let error = Image::open(&inner.join("chain0"), &options(true)).unwrap_err();
    assert!(error.to_string().contains("too many"), "{error}");
    let path = create(&inner, "disk", SIZE, Some(("one", "vmdk")));
    assert!(matches!(
        Image::open(&path, &options(true)),
        Err(ImageError::Header { fault: HeaderFault::BackingName, .. })
    ));
}

#[test]
fn an_image_grows() {
    let place = tempfile::tempdir().unwrap();
    let path = create(place.path(), "disk", SIZE, None);
    let image = open(&path, &options(false));
    assert_eq!((image.resize(2 * SIZE), image.capacity()), (Ok(()), 2 * SIZE));
    assert_eq!(byte_at(&image, 2 * SIZE - 512), 0);
    assert_eq!(image.resize(2 * SIZE + 1), Err(devices::storage::IoFault::OutOfRange));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    /// Images with any damage are refused, or read and written with errors at worst.
    #[test]
    fn damaged_images_hang_nothing(
        damage in prop::collection::vec((0u64..400_000, any::<u8>()), 1..12),
        entries in prop::collection::vec((1u64..5, 0u64..4, any::<u64>()), 0..6),
    ) {
        let place = tempfile::tempdir().unwrap();
        let path = create(place.path(), "disk", SIZE, None);
        let guest = Guest::new();
        let data = guest.data(0, 4096, &[]);
        {
            let image = open(&path, &options(false));
            let mut engine = engine(&image, EngineKind::Auto);
            for offset in [0, 1 << 20, 5 << 20] {
                prop_assert_eq!(run(&mut engine, write_to(extent(offset, 4096)), &data), Ok(()));
            }
            prop_assert_eq!(run_bare(&mut engine, Work::Flush), Ok(()));
        }
        let copy = place.path().join("copy");
        std::fs::copy(&path, &copy).unwrap();
        let raw = std::fs::File::options().write(true).open(&copy).unwrap();
        for (at, byte) in &damage {
            raw.write_all_at(&[*byte], *at).unwrap();
        }
        for (cluster, entry, value) in &entries {
            raw.write_all_at(&value.to_be_bytes(), cluster * 65536 + entry * 8).unwrap();
        }
        if let Ok(image) = Image::open(&copy, &options(false)) {
            let image = Arc::new(image);
            let capacity = image.capacity();
            let mut engine = engine(&image, EngineKind::Auto);
            for offset in [0, 512, 1 << 20, 3 << 20, 5 << 20].into_iter().filter(|at| at + 4096 <= capacity) {
                let _any = run(&mut engine, Work::Read(extent(offset, 4096)), &data);
                let _any = run(&mut engine, write_to(extent(offset, 4096)), &data);
                let zero = Work::Zero { extents: extent(offset, 4096).into(), unmap: true, through: true };
                let _any = run_bare(&mut engine, zero);
            }
            let _any = run_bare(&mut engine, Work::Flush);
        }
    }
}
