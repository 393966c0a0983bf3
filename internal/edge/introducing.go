package edge

import (
	"encoding/binary"
	"net/netip"
	"strconv"
)

// introduction is the word with which a connection to an instance begins, about who is behind it, by the PROXY protocol
// (haproxy.org, "The PROXY protocol, versions 1 & 2", 2020/03/05).
type introduction struct {
	client   netip.AddrPort
	local    netip.AddrPort // where the client connected to
	name     string         // that its handshake asked for; "" for none
	protocol string         // that is spoken in TLS, where that is known
}

// append writes the word in a version, 1 or 2.
func (i introduction) append(b []byte, version int) []byte {
	from, to := i.client.Addr().Unmap().WithZone(""), i.local.Addr().Unmap().WithZone("")
	if from.Is4() != to.Is4() { // one was told us by a proxy in front
		from, to = netip.AddrFrom16(from.As16()), netip.AddrFrom16(to.As16())
	}
	known := i.client.IsValid() && i.local.IsValid()
	if version == 1 {
		return i.first(b, from, to, known)
	}
	begin := len(b)
	b = append(append(b, signature...), 0x21, 0, 0, 0)
	if known {
		family := byte(0x11)
		if !from.Is4() {
			family = 0x21
		}
		b[begin+13] = family
		b = append(append(b, from.AsSlice()...), to.AsSlice()...)
		b = binary.BigEndian.AppendUint16(b, i.client.Port())
		b = binary.BigEndian.AppendUint16(b, i.local.Port())
	}
	b = appendDetail(b, 0x01, i.protocol)
	b = appendDetail(b, 0x02, i.name)
	binary.BigEndian.PutUint16(b[begin+14:], uint16(len(b)-begin-headOfSecond))
	return b
}

func (i introduction) first(b []byte, from, to netip.Addr, known bool) []byte {
	if !known {
		return append(b, "PROXY UNKNOWN\r\n"...)
	}
	family := "TCP4 "
	if !from.Is4() {
		family = "TCP6 "
	}
	b = append(append(b, "PROXY "...), family...)
	b = append(from.AppendTo(b), ' ')
	b = append(to.AppendTo(b), ' ')
	b = append(strconv.AppendUint(b, uint64(i.client.Port()), 10), ' ')
	return append(strconv.AppendUint(b, uint64(i.local.Port()), 10), "\r\n"...)
}

// appendDetail writes what version 2 may tell besides, if there is something to tell.
func appendDetail(b []byte, kind byte, value string) []byte {
	if value == "" || len(value) > maxName {
		return b
	}
	return append(binary.BigEndian.AppendUint16(append(b, kind), uint16(len(value))), value...)
}
