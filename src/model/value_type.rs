//! [`ValueType`]: the closed set of types a value can have, by Feast's numbers (`feast/value_type.py`).

use std::fmt;

macro_rules! value_types {
    ($($variant:ident = $number:literal, $name:literal;)*) => {
        /// A value's type; the number is both Feast's enum value and the field of `feast.types.Value`
        /// it travels in (PDF and image bytes travel as bytes).
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum ValueType { $(#[doc = $name] $variant = $number,)* }

        impl ValueType {
            /// Every type.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The type of that number; numbers of newer Feast versions are [`ValueType::Unknown`].
            pub fn from_number(number: i32) -> Self {
                match number { $($number => Self::$variant,)* _ => Self::Unknown }
            }

            /// The name Feast's SDK prints: `Array(Float32)`.
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }
        }
    };
}

value_types! {
    Unknown = 0, "Invalid";
    Bytes = 1, "Bytes";
    String = 2, "String";
    Int32 = 3, "Int32";
    Int64 = 4, "Int64";
    Double = 5, "Float64";
    Float = 6, "Float32";
    Bool = 7, "Bool";
    UnixTimestamp = 8, "UnixTimestamp";
    BytesList = 11, "Array(Bytes)";
    StringList = 12, "Array(String)";
    Int32List = 13, "Array(Int32)";
    Int64List = 14, "Array(Int64)";
    DoubleList = 15, "Array(Float64)";
    FloatList = 16, "Array(Float32)";
    BoolList = 17, "Array(Bool)";
    UnixTimestampList = 18, "Array(UnixTimestamp)";
    Null = 19, "Null";
    Map = 20, "Map";
    MapList = 21, "Array(Map)";
    BytesSet = 22, "Set(Bytes)";
    StringSet = 23, "Set(String)";
    Int32Set = 24, "Set(Int32)";
    Int64Set = 25, "Set(Int64)";
    DoubleSet = 26, "Set(Float64)";
    FloatSet = 27, "Set(Float32)";
    BoolSet = 28, "Set(Bool)";
    UnixTimestampSet = 29, "Set(UnixTimestamp)";
    PdfBytes = 30, "PdfBytes";
    ImageBytes = 31, "ImageBytes";
    Json = 32, "Json";
    JsonList = 33, "Array(Json)";
    Struct = 34, "Struct";
    StructList = 35, "Array(Struct)";
    Uuid = 36, "Uuid";
    TimeUuid = 37, "TimeUuid";
    UuidList = 38, "Array(Uuid)";
    TimeUuidList = 39, "Array(TimeUuid)";
    UuidSet = 40, "Set(Uuid)";
    TimeUuidSet = 41, "Set(TimeUuid)";
    ValueList = 42, "Array(Array)";
    ValueSet = 43, "Set(Array)";
    Decimal = 44, "Decimal";
    DecimalList = 45, "Array(Decimal)";
    DecimalSet = 46, "Set(Decimal)";
    ScalarMap = 47, "ScalarMap";
    ZonedTimestamp = 48, "ZonedTimestamp";
}

impl ValueType {
    /// The number stored in protos.
    pub fn number(self) -> i32 {
        self as i32
    }

    /// The type of that Feast name, as definitions spell it (`Int64`, `Array(String)`).
    pub fn from_name(name: &str) -> Option<Self> {
        let name = name.trim();
        if name.starts_with("Struct(") {
            return Some(Self::Struct);
        }
        Self::ALL
            .iter()
            .copied()
            .find(|value_type| value_type.name() == name)
    }
}

impl fmt::Display for ValueType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
