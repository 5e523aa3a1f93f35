/// Code page 437 as it looks on the screen: control codes are pictures.
const CHARACTERS: &str = concat!(
    " ☺☻♥♦♣♠•◘○◙♂♀♪♫☼►◄↕‼¶§▬↨↑↓→←∟↔▲▼",
    " !\"#$%&'()*+,-./0123456789:;<=>?@ABCDEFGHIJKLMNOPQRSTUVWXYZ[\\]^_`abcdefghijklmnopqrstuvwxyz{|}~⌂",
    "ÇüéâäàåçêëèïîìÄÅÉæÆôöòûùÿÖÜ¢£¥₧ƒáíóúñÑªº¿⌐¬½¼¡«»░▒▓│┤╡╢╖╕╣║╗╝╜╛┐",
    "└┴┬├─┼╞╟╚╔╩╦╠═╬╧╨╤╥╙╘╒╓╫╪┘┌█▄▌▐▀αßΓπΣσµτΦΘΩδ∞φε∩≡±≥≤⌠⌡÷≈°∙·√ⁿ²■ ",
);

/// The character of each code.
pub(crate) fn characters() -> [char; 256] {
    let mut characters = CHARACTERS.chars();
    std::array::from_fn(|_| characters.next().unwrap_or(' '))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_has_256_characters_and_ascii_in_its_place() {
        assert_eq!(CHARACTERS.chars().count(), 256);
        let characters = characters();
        assert!((b' '..=b'~').all(|code| characters[usize::from(code)] == char::from(code)));
        assert_eq!([0xB0, 0xC4, 0xDB, 0xE1, 0xFE].map(|code: usize| characters[code]), ['░', '─', '█', 'ß', '■']);
    }
}
