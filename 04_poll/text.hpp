// text.hpp, the same in every stage: names of errors, and a stranger's bytes as harmless text.
#pragma once

#include <cerrno>
#include <cstdio>
#include <initializer_list>
#include <string>
#include <string_view>

/// The name of an errno value, as the manual pages spell it; "EOTHER" for one not listed here.
inline const char* errno_name(int error) {
    struct Name {
        int error;
        const char* name;
    };
    // clang-format off
    static constexpr Name names[] = {
        {0, "0"}, {EACCES, "EACCES"}, {EADDRINUSE, "EADDRINUSE"}, {EADDRNOTAVAIL, "EADDRNOTAVAIL"},
        {EAFNOSUPPORT, "EAFNOSUPPORT"}, {EAGAIN, "EAGAIN"}, {EBADF, "EBADF"},
        {ECONNABORTED, "ECONNABORTED"}, {ECONNREFUSED, "ECONNREFUSED"}, {ECONNRESET, "ECONNRESET"},
        {EEXIST, "EEXIST"}, {EFBIG, "EFBIG"}, {EHOSTUNREACH, "EHOSTUNREACH"},
        {EINPROGRESS, "EINPROGRESS"},
        {EINTR, "EINTR"}, {EINVAL, "EINVAL"}, {EIO, "EIO"}, {EISCONN, "EISCONN"},
        {EMFILE, "EMFILE"}, {ENETDOWN, "ENETDOWN"}, {ENETUNREACH, "ENETUNREACH"},
        {ENFILE, "ENFILE"}, {ENOBUFS, "ENOBUFS"}, {ENOENT, "ENOENT"}, {ENOMEM, "ENOMEM"},
        {ENOPROTOOPT, "ENOPROTOOPT"}, {ENOSPC, "ENOSPC"}, {ENOTCONN, "ENOTCONN"},
        {ENOTSOCK, "ENOTSOCK"}, {EOPNOTSUPP, "EOPNOTSUPP"}, {EPERM, "EPERM"}, {EPIPE, "EPIPE"},
#ifdef ENONET  // Linux has these two
        {EHOSTDOWN, "EHOSTDOWN"}, {ENONET, "ENONET"},
#endif
        {EPROTO, "EPROTO"}, {ETIMEDOUT, "ETIMEDOUT"}};
    // clang-format on
    for (const Name& known : names)
        if (known.error == error) return known.name;
    return "EOTHER";
}

/// The pieces in one string.
inline std::string joined(std::initializer_list<std::string_view> pieces) {
    std::string text;
    for (const std::string_view piece : pieces) text += piece;
    return text;
}

/// A text of at most 255 bytes, what is beyond cut off. It takes no memory from the heap: a line
/// that is made of such texts can be narrated though none is left.
class ShortText {
public:
    const char* c_str() const { return chars_; }

    void add(std::string_view text) {
        size_ += text.copy(chars_ + size_, sizeof chars_ - 1 - size_);
    }

private:
    char chars_[256] = "";
    std::size_t size_ = 0;
};

/// `bytes` in quotes and on one line, everything but printable ASCII escaped: the first 40, then
/// `+` and how many more there are.
inline ShortText in_quotes(std::string_view bytes) {
    constexpr std::size_t most = 40;
    constexpr std::string_view special = "\n\r\t\"\\", letters = "nrt\"\\";
    ShortText text;
    text.add("\"");
    for (const char c : bytes.substr(0, most)) {
        char shown[8] = {c};
        const auto at = special.find(c);
        if (at != special.npos) std::snprintf(shown, sizeof shown, "\\%c", letters[at]);
        else if (c < 0x20 || c >= 0x7F)
            std::snprintf(shown, sizeof shown, "\\x%02x", static_cast<unsigned char>(c));
        text.add(shown);
    }
    char more[32] = "";
    if (bytes.size() > most) std::snprintf(more, sizeof more, "+%zu", bytes.size() - most);
    text.add("\"");
    text.add(more);
    return text;
}

/// How many bytes at the front of `text` are one character that a terminal just shows: well-formed
/// UTF-8 (RFC 3629), no control character, and none that breaks a line or turns it around (U+2028
/// to U+202E, U+2066 to U+2069). 0 if they are not.
inline std::size_t shown_length(std::string_view text) {
    const auto byte = [&](std::size_t i) {
        return i < text.size() ? static_cast<unsigned char>(text[i]) : 0U;
    };
    const unsigned first = byte(0);
    if ((first >= 0x80 && first < 0xC0) || first > 0xF4) return 0;
    const std::size_t length = first < 0x80 ? 1 : first < 0xE0 ? 2 : first < 0xF0 ? 3 : 4;
    unsigned code = length == 1 ? first : first & (0x7FU >> length);
    for (std::size_t i = 1; i < length; ++i) {
        if ((byte(i) & 0xC0) != 0x80) return 0;
        code = code << 6 | (byte(i) & 0x3F);
    }
    // Below: control characters (C0, and C1 from U+0080 to U+009F), and overlong encodings.
    constexpr unsigned least[] = {0, 0x20, 0xA0, 0x800, 0x10000};
    const bool surrogate = code >= 0xD800 && code <= 0xDFFF;
    const bool turns = (code >= 0x2028 && code <= 0x202E) || (code >= 0x2066 && code <= 0x2069);
    const bool shown = code >= least[length] && code != 0x7F && code <= 0x10FFFF;
    return shown && !surrogate && !turns ? length : 0;
}

/// `text` with a question mark for every byte that is not part of such a character.
inline std::string printable(std::string_view text) {
    std::string shown;
    while (!text.empty()) {
        const std::size_t length = shown_length(text);
        shown += length == 0 ? "?" : text.substr(0, length);
        text.remove_prefix(length == 0 ? 1 : length);
    }
    return shown;
}
