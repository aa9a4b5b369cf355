"""Files a stranger could send, written by hand: each a function from a folder to a path."""

from __future__ import annotations

import json
import struct
import zipfile
import zlib

import h5py
import numpy as np

CASES = {}


def case(expected):
    """Registers a file, with what its error says; None where it can be read."""

    def register(function):
        CASES[function.__name__] = (function, expected)
        return function

    return register


def layer(kind, name, inputs=(), **config):
    """A layer of Keras 2's dialect, called once."""
    node = [[[source, 0, 0, {}] for source in inputs]] if inputs else []
    return {
        "class_name": kind,
        "name": name,
        "config": {"name": name, **config},
        "inbound_nodes": node,
    }


def model(layers, outputs, inputs=("x",), name="model"):
    return {
        "class_name": "Functional",
        "name": name,
        "config": {
            "name": name,
            "layers": layers,
            "input_layers": [[source, 0, 0] for source in inputs],
            "output_layers": [[source, 0, 0] for source in outputs],
        },
    }


def source(name="x"):
    return layer("InputLayer", name, batch_input_shape=[None, 8])


def sequential(layers, name="model"):
    return {"class_name": "Sequential", "config": {"name": name, "layers": layers}}


def bn(name="bn", inputs=(), **config):
    return layer("BatchNormalization", name, inputs, **config)


def write_json(folder, value):
    path = folder / "model.json"
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    return path


def write_keras(folder, config, values=None, edit=None, **options):
    """A `.keras` of a configuration and of data sets by their places."""
    path = folder / "model.keras"
    with zipfile.ZipFile(path, "w", **options) as archive:
        text = config if isinstance(config, (str, bytes)) else json.dumps(config)
        archive.writestr("config.json", text)
        archive.writestr("model.weights.h5", hdf5_bytes(folder, values or {}, edit))
    return path


def hdf5_bytes(folder, values, edit=None):
    path = folder / "weights.h5"
    with h5py.File(path, "w") as store:
        for place, value in values.items():
            store.create_dataset(place, data=value)
        if edit:
            edit(store)
    data = path.read_bytes()
    path.unlink()
    return data


VARS = "layers/batch_normalization/vars"
ONE_BN = sequential([source(), layer("Dense", "dense", units=4), bn()])


def one_bn(folder, edit=None, **values):
    given = {name: np.ones(4, np.float32) for name in "0123"} | {
        name[1:]: value for name, value in values.items()
    }
    places = {f"{VARS}/{name}": value for name, value in given.items() if value is not None}
    return write_keras(folder, ONE_BN, places, edit)


# --- what is no file ---------------------------------------------------------------------


@case("is empty")
def empty(folder):
    path = folder / "model.keras"
    path.touch()
    return path


@case("model.keras")
def directory(folder):
    path = folder / "model.keras"
    path.mkdir()
    return path


@case("no regular file")
def pipe(folder):
    import os

    path = folder / "model.keras"
    os.mkfifo(path)
    return path


@case("no regular file")
def device(folder):
    path = folder / "model.keras"
    path.symlink_to("/dev/zero")
    return path


@case("cannot be read")
def socket(folder):
    import os
    import socket as sockets

    path = folder / "s"
    here = os.open(folder, os.O_RDONLY)
    with sockets.socket(sockets.AF_UNIX) as made:
        made.bind(f"/proc/self/fd/{here}/s")
    os.close(here)
    return path


# --- zip ---------------------------------------------------------------------------------


@case("truncated or damaged zip archive")
def zip_signature_only(folder):
    path = folder / "model.keras"
    path.write_bytes(b"PK\x03\x04" + bytes(100))
    return path


@case("at most 32 MB")
def zip_bomb_config(folder):
    path = folder / "model.keras"
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("config.json", "w") as member,
    ):
        member.write(b'{"a":"')
        for _ in range(300):
            member.write(bytes(1 << 20))
    return path


@case("at most 192 MB")
def zip_bomb_weights(folder):
    path = folder / "model.keras"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("config.json", json.dumps(ONE_BN))
        with archive.open("model.weights.h5", "w", force_zip64=True) as member:
            for _ in range(300):
                member.write(bytes(1 << 20))
    return path


def claims(  # noqa: PLR0913
    folder, offset, size, value, name=b"model.weights.h5", *, signature=b"PK\x01\x02"
):
    """Overwrites a field in a member's entry of the central directory or its own header."""
    path = one_bn(folder)
    data = bytearray(path.read_bytes())
    place = data.rindex(name) - (46 if signature == b"PK\x01\x02" else 30)
    if signature == b"PK\x03\x04":
        place = data.index(name) - 30
    assert data[place : place + 4] == signature
    data[place + offset : place + offset + size] = value.to_bytes(size, "little")
    path.write_bytes(data)
    return path


@case("claims more bytes than the archive has")
def member_claims_too_much(folder):
    return claims(folder, 24, 4, 0xFFFFFFF0)


@case("claims more bytes than the archive has")
def member_claims_too_little(folder):
    return claims(folder, 24, 4, 100)


@case("claims more bytes than the archive has")
def member_claims_both_sizes_too_large(folder):
    path = claims(folder, 24, 4, 0x7FFFFFFF)
    data = bytearray(path.read_bytes())
    place = data.rindex(b"model.weights.h5") - 46
    data[place + 20 : place + 24] = (0x7FFFFFFF).to_bytes(4, "little")
    path.write_bytes(data)
    return path


@case("is damaged")
def config_claims_too_little(folder):
    return claims(folder, 24, 4, 10, b"config.json")


@case("is damaged")
def member_header_elsewhere(folder):
    return claims(folder, 42, 4, 7)


@case("is damaged")
def member_header_beyond_the_end(folder):
    return claims(folder, 42, 4, 0x7FFFFFFF)


@case("is encrypted")
def member_encrypted(folder):
    return claims(folder, 8, 2, 1)


@case("is damaged")
def member_of_unknown_compression(folder):
    return claims(folder, 10, 2, 97)


@case("is damaged")
def stored_member_said_to_be_deflated(folder):
    return claims(folder, 10, 2, 8)


@case("is damaged")
def stored_member_said_to_be_lzma(folder):
    return claims(folder, 10, 2, 14)


@case(None)
def own_header_lies_about_sizes(folder):
    return claims(folder, 22, 4, 5, signature=b"PK\x03\x04")


@case("has 2 members called config.json")
def duplicate_member(folder):
    path = one_bn(folder)
    with zipfile.ZipFile(path, "a") as archive:
        import warnings

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            archive.writestr("config.json", "{}")
    return path


@case(None)
def names_of_members_that_climb(folder):
    path = one_bn(folder)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("../../etc/x", "x")
        archive.writestr("/etc/y", "y")
    return path


@case("directory of the zip archive")
def a_hundred_thousand_members(folder):
    path = folder / "model.keras"
    entry = struct.pack("<4s6H3L5H2L", b"PK\x01\x02", 20, 20, *[0] * 7, 1, *[0] * 6)
    entries = (entry + b"a") * 100_000
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 65535, 65535, len(entries), 0, 0)
    path.write_bytes(b"PK\x03\x04" + entries + end)
    return path


@case("truncated or damaged zip archive")
def directory_of_four_gigabytes(folder):
    path = folder / "model.keras"
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 9, 9, 0xFFFFFFF0, 0, 0)
    path.write_bytes(b"PK\x03\x04" + bytes(100) + end)
    return path


@case(None)
def overlapping_members(folder):
    """Both entries of the directory name the same bytes."""
    path = folder / "model.keras"
    text = json.dumps(ONE_BN).encode()
    head = struct.pack(
        "<4s5H3L2H",
        b"PK\x03\x04",
        20,
        0,
        0,
        0,
        0,
        zlib.crc32(text),
        len(text),
        len(text),
        11,
        0,
    )
    body = head + b"config.json" + text
    entry = struct.pack(
        "<4s6H3L5H2L",
        *(b"PK\x01\x02", 20, 20, 0, 0, 0, 0, zlib.crc32(text), len(text), len(text)),
        *(11, 0, 0, 0, 0, 0, 0),
    )
    entries = entry + b"config.json" + entry + b"other.json0"
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 2, 2, len(entries), len(body), 0)
    path.write_bytes(body + entries + end)
    return path


# --- JSON --------------------------------------------------------------------------------


@case("nests its configuration too deeply")
def nested_lists(folder):
    return write_json(folder, '{"a":' + "[" * 100_000)


@case("nests its configuration too deeply")
def sequentials_in_sequentials(folder):
    head = '{"class_name":"Sequential","config":{"name":"s","layers":['
    return write_json(folder, head * 10_000 + "]}}" * 10_000)


@case("at most 64")
def a_hundred_models_in_each_other(folder):
    inner = sequential([bn()])
    for depth in range(100):
        inner = sequential([source(), inner], f"m{depth}")
    return write_json(folder, inner)


@case("at most 32 MB")
def configuration_of_forty_megabytes(folder):
    return write_json(folder, '{"a":"' + "x" * (40 << 20) + '"}')


@case("at most 256 MB")
def ten_million_empty_lists(folder):
    return write_json(folder, '{"a":[' + "[]," * 10_000_000 + "[]]}")


@case("at most 256 MB")
def a_million_layers(folder):
    return write_json(
        folder,
        '{"class_name":"Sequential","config":['
        + '{"class_name":"ReLU"},' * 1_000_000
        + '{"class_name":"ReLU"}]}',
    )


@case("at most 30,000")
def sixty_thousand_layers(folder):
    layers = [source()] + [bn(f"bn{i}") for i in range(60_000)]
    return write_json(folder, sequential(layers))


@case("at most 30,000")
def fifty_thousand_calls(folder):
    one = bn("bn", ["x"])
    one["inbound_nodes"] += [[["bn", i, 0, {}]] for i in range(50_000)]
    return write_json(folder, model([source(), one], ["bn"]))


@case("not valid JSON")
def number_of_ten_thousand_digits(folder):
    return write_json(folder, '{"class_name":"a","config":' + "9" * 10_000 + "}")


@case(None)
def numbers_beyond_float(folder):
    text = json.dumps(sequential([source(), bn(momentum="M", epsilon="E", axis="A")]))
    text = (
        text.replace('"M"', "9" * 4_000).replace('"E"', "1e400").replace('"A"', "9" * 4_000)
    )
    return write_json(folder, text)


@case(None)
def numbers_that_are_none(folder):
    text = json.dumps(sequential([source(), bn(momentum="M", epsilon="E")]))
    return write_json(folder, text.replace('"M"', "NaN").replace('"E"', "-Infinity"))


@case(None)
def sizes_beyond_measure(folder):
    wide = layer("InputLayer", "x", batch_input_shape=[None, 9, 9, 3])
    layers = [wide] + [
        layer("UpSampling2D", f"up{i}", size=[10**4000, 10**4000]) for i in range(200)
    ]
    return write_json(folder, sequential([*layers, bn()]))


@case(None)
def shapes_of_a_million_axes(folder):
    wide = layer("InputLayer", "x", batch_input_shape=[2] * 1_000_000)
    layers = [layer("Reshape", f"r{i}", target_shape=[2] * 1000) for i in range(500)]
    return write_json(folder, sequential([wide, *layers, bn()]))


@case(None)
def lone_surrogates(folder):
    path = write_json(folder, sequential([source(), bn("BN_\\ud800_")]).__class__())
    text = json.dumps(sequential([source(), bn("NAME")]))
    path.write_text(text.replace("NAME", "bn\\ud800"))
    return path


@case(None)
def duplicate_keys(folder):
    text = json.dumps(sequential([source(), bn()]))
    return write_json(folder, text.replace('"name": "bn"', '"name": 1, "name": "bn"'))


@case("not valid UTF-8")
def bytes_that_are_no_text(folder):
    path = folder / "model.json"
    path.write_bytes(b'{"class_name": "\xff\xfe"}')
    return path


@case(None)
def names_that_control_a_terminal(folder):
    name = (
        "bn\x1b]0;title\x07\x1b[2J\x1b[31m\u202egnp\u2066\u200b\u2060\ufeff\r\n\u3164\u2028"
    )
    return write_json(folder, sequential([source(), bn(name, momentum=0.1, center=False)]))


@case("at most 512")
def name_of_a_megabyte(folder):
    return write_json(folder, sequential([source(), bn("b" * (1 << 20))]))


@case("at most 512")
def class_name_of_a_megabyte(folder):
    return write_json(folder, sequential([source(), layer("X" * (1 << 20), "x"), bn()]))


# --- graphs ------------------------------------------------------------------------------


@case("form a cycle")
def cycle(folder):
    layers = [source(), layer("Add", "a", ["x", "b"]), layer("Add", "b", ["a", "x"])]
    return write_json(folder, model([*layers, bn("bn", ["b"])], ["bn"]))


@case("form a cycle")
def self_reference(folder):
    return write_json(folder, model([source(), bn("bn", ["bn"])], ["bn"]))


@case("does not exist")
def reference_to_nothing(folder):
    return write_json(folder, model([source(), bn("bn", ["nothing"])], ["bn"]))


@case("2 layers of one model are called 'bn'")
def repeated_names(folder):
    return write_json(folder, sequential([source(), bn(), bn()]))


def twice(levels, content):
    inner = content
    for depth in range(levels):
        inner = inner | {"name": "inner"}
        inner["config"] = inner["config"] | {"name": "inner"}
        # Keras 2 counts the calls of nested models from one.
        inner["inbound_nodes"] = [[["x", 0, 0, {}]], [["inner", 1, 0, {}]]]
        outer = model([source(), inner], ["inner"], name=f"m{depth}")
        outer["config"]["output_layers"] = [["inner", 2, 0]]
        inner = outer
    return inner


@case("With each call of a nested model counted")
def models_called_twice_forty_levels_deep(folder):
    return write_json(folder, twice(40, model([source(), bn("bn", ["x"])], ["bn"])))


@case("With each call of a nested model counted")
def empty_models_called_twice_forty_levels_deep(folder):
    return write_json(folder, twice(40, model([source()], ["x"])))


@case("more tensors than in any real model")
def large_model_called_often(folder):
    layers = [source(), *(source(f"x{i}") for i in range(2_000))]  # none of them is a call
    inner = model(layers, ["x"], name="inner")
    inner["inbound_nodes"] = [[["x", 0, 0, {}]] for _ in range(2_000)]
    return write_json(folder, model([source(), inner], ["inner"]))


@case("more tensors")
def calls_of_many_outputs(folder):
    layers = [source(), layer("Custom", "c0", ["x"])]
    for i in range(1, 1_000):
        layers.append(layer("Custom", f"c{i}", ["x"]))
        layers[-1]["inbound_nodes"] = [[[f"c{i - 1}", 0, 4000, {}]]]
    return write_json(folder, model(layers, ["c999"]))


@case("so entangled")
def ladder_of_adds(folder):
    layers = [source()]
    before = "x"
    for i in range(10_000):
        layers += [layer("Add", f"a{i}", [before, before]), bn(f"b{i}", [f"a{i}"])]
        before = f"b{i}"
    return write_json(folder, model(layers, [before]))


def chain(kind, count, **config):
    layers = [source()]
    before = "x"
    for i in range(count):
        layers.append(layer(kind, f"l{i}", [before], **config))
        before = f"l{i}"
    return layers, before


@case("so entangled")
def twenty_thousand_layers_in_a_chain(folder):
    layers, last = chain("Flatten", 10_000)
    layers += [bn(f"b{i}", [f"l{i}"]) for i in range(10_000)]
    return write_json(folder, model(layers, ["b9999", last]))


@case("so entangled")
def twenty_thousand_batch_norms_in_a_chain(folder):
    layers, last = chain("BatchNormalization", 20_000, momentum=0.1, epsilon=1e-9)
    return write_json(folder, model(layers, [last]))


@case("so entangled")
def ends_all_along_a_chain(folder):
    layers, last = chain("Flatten", 10_000)
    layers += [bn(f"b{i}", [last]) for i in range(10_000)]
    return write_json(folder, model(layers, ["b9999"]))


@case("so entangled")
def every_dense_layer_reaches_every_batch_norm(folder):
    count = 4_000
    layers = [source()] + [layer("Dense", f"d{i}", ["x"], units=4) for i in range(count)]
    layers.append(layer("Flatten", "f", [f"d{i}" for i in range(count)]))
    layers += [bn(f"b{i}", ["f"]) for i in range(count)]
    return write_json(folder, model(layers, ["b0"]))


@case("so entangled")
def one_layer_feeds_ten_thousand(folder):
    layers = [source(), layer("Dense", "d", ["x"], units=4)]
    layers += [bn(f"b{i}", ["d"]) for i in range(10_000)]
    return write_json(folder, model(layers, ["b0"]))


@case("Expected a model that Keras saved")
def dense_graph(folder):
    layers = [source()]
    for i in range(600):
        before = [f"c{j}" for j in range(i)] or ["x"]
        layers += [layer("Concatenate", f"c{i}", before), bn(f"b{i}", [f"c{i}"])]
    return write_json(folder, model(layers, ["b0"]))


@case(None)
def wrappers_without_a_graph(folder):
    layers = [source()]
    for i in range(8_000):
        inner = {"class_name": "BatchNormalization", "config": {"name": f"b{i}"}}
        layers.append(layer("TimeDistributed", f"t{i}", layer=inner))
    return write_json(folder, sequential(layers))


@case(None)
def many_models_without_a_graph(folder):
    layers = [source()]
    for i in range(8_000):
        inner = {"class_name": "BatchNormalization", "config": {"name": "b"}}
        layers.append(layer("Functional", f"m{i}", layer=inner))
    return write_json(folder, sequential(layers))


# --- configurations of the wrong types ---------------------------------------------------

WRONG = (None, True, -1, 1.5, "", "x", [], [[]], [None], {}, {"a": []}, {"class_name": 3})


@case(None)
def settings_of_wrong_types(folder):
    keys = [
        "axis",
        "momentum",
        "epsilon",
        "center",
        "scale",
        "renorm",
        "gamma_initializer",
        "beta_initializer",
        "gamma_regularizer",
        "beta_regularizer",
        "dtype",
        "trainable",
        "synchronized",
        "fused",
        "name_",
    ]
    layers = [source()]
    for i, wrong in enumerate(WRONG):
        settings = dict.fromkeys(keys, wrong)
        layers += [
            layer(
                "Conv2D",
                f"c{i}",
                **dict.fromkeys(["filters", "units", "use_bias", "activation"], wrong),
                **dict.fromkeys(
                    ["kernel_size", "strides", "padding", "data_format"], wrong
                ),
            ),
            layer(
                "Dense", f"d{i}", units=wrong, activation=wrong, use_bias=wrong, dtype=wrong
            ),
            layer("Dropout", f"p{i}", rate=wrong, noise_shape=wrong),
            layer("Reshape", f"r{i}", target_shape=wrong),
            layer("EinsumDense", f"e{i}", equation=wrong, bias_axes=wrong),
            bn(f"b{i}", **settings),
        ]
    return write_json(folder, sequential(layers))


@case(None)
def compile_settings_of_wrong_types(folder):
    path = one_bn(folder)
    config = ONE_BN | {"compile_config": [1, "x"]}
    return write_keras(path.parent, config)


# --- HDF5 --------------------------------------------------------------------------------


@case(None)
def readable(folder):
    return one_bn(folder)


@case("BN needs one length")
def gamma_of_two_dimensions(folder):
    return one_bn(folder, _0=np.ones((2, 2), np.float32))


@case("BN needs one length")
def variables_of_different_lengths(folder):
    return one_bn(folder, _3=np.ones(5, np.float32))


@case("BN needs one length")
def gamma_is_a_number(folder):
    return one_bn(folder, _0=np.float32(1))


@case(None)
def gammas_are_integers(folder):
    return one_bn(folder, _0=np.arange(4))


@case(None)
def no_channels(folder):
    none = np.ones(0, np.float32)
    return one_bn(folder, _0=none, _1=none, _2=none, _3=none)


@case("holds no numbers")
def gammas_are_strings(folder):
    return one_bn(folder, _0=np.array([b"a", b"b", b"c", b"d"]))


@case("holds no numbers")
def gammas_are_records(folder):
    return one_bn(folder, _0=np.ones(4, [("a", "f4"), ("b", "f4")]))


@case("holds no numbers")
def gammas_are_complex(folder):
    return one_bn(folder, _0=np.ones(4, np.complex64))


@case("holds no numbers")
def gammas_are_nothing(folder):
    return one_bn(folder, _0=h5py.Empty("f4"))


def put(name, **options):
    def edit(store):
        store[VARS].create_dataset(name, **options)

    return edit


@case("holds no numbers")
def gammas_are_references(folder):
    def edit(store):
        values = store[VARS].create_dataset("0", (4,), h5py.ref_dtype)
        values[0] = store.ref

    return one_bn(folder, edit, _0=None)


@case("holds no numbers")
def gammas_are_arrays(folder):
    return one_bn(folder, put("0", shape=(4,), dtype="(1000000,)f8"), _0=None)


@case("holds no numbers")
def gammas_are_a_type(folder):
    def edit(store):
        store[f"{VARS}/0"] = np.dtype("f4")

    return one_bn(folder, edit, _0=None)


@case(None)
def gammas_are_bfloat16(folder):
    return one_bn(folder, _0=np.full(4, 0x3F80, np.uint16).view("V2"))


@case("claims 1,000,000,000,000 values")
def gammas_without_end(folder):
    edit = put("0", shape=(10**12,), dtype="f4", chunks=(1024,))
    return one_bn(folder, edit, _0=None)


@case("at most 8,000,000")
def more_values_than_any_model(folder):
    def edit(store):
        for i in range(3):
            for j in range(4):
                place = f"layers/batch_normalization{f'_{i}' if i else ''}/vars/{j}"
                store.create_dataset(place, (1_000_000,), "f8", chunks=(1000,))

    layers = [source(), *(bn(f"b{i}") for i in range(3))]
    return write_keras(folder, sequential(layers), edit=edit)


@case("pieces of")
def chunks_larger_than_their_data(folder):
    edit = put("0", shape=(4,), dtype="f4", chunks=(1 << 28,), maxshape=(None,))
    return one_bn(folder, edit, _0=None)


@case("KB of compressed values")
def bomb_in_a_data_set(folder):
    def edit(store):
        values = store[VARS].create_dataset(
            "0", (4,), "f4", chunks=(1000,), maxshape=(None,), compression="gzip"
        )
        bomb = zlib.compress(bytes(200 << 20))
        values.id.write_direct_chunk((0,), bomb)

    return one_bn(folder, edit, _0=None)


@case(None)
def compressed_values(folder):
    edit = put(
        "0", data=np.ones(4, "f4"), compression="gzip", shuffle=True, fletcher32=True
    )
    return one_bn(folder, edit, _0=None)


@case("packed by the HDF5 filters")
def filter_of_a_plugin(folder):
    def edit(store):
        plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plist.set_chunk((4,))
        plist.set_filter(32001, h5py.h5z.FLAG_OPTIONAL, ())
        space = h5py.h5s.create_simple((4,))
        h5py.h5d.create(store[VARS].id, b"0", h5py.h5t.IEEE_F32LE, space, plist)

    return one_bn(folder, edit, _0=None)


@case("link to another place")
def external_link(folder):
    def edit(store):
        store[f"{VARS}/0"] = h5py.ExternalLink("/etc/passwd", "/")

    return one_bn(folder, edit, _0=None)


@case("link to another place")
def soft_link(folder):
    def edit(store):
        store[f"{VARS}/0"] = h5py.SoftLink(f"/{VARS}/1")

    return one_bn(folder, edit, _0=None)


@case("in another file")
def external_storage(folder):
    edit = put("0", shape=(4,), dtype="f4", external=[("/etc/passwd", 0, 16)])
    return one_bn(folder, edit, _0=None)


@case("in another file")
def virtual_data_set(folder):
    def edit(store):
        layout = h5py.VirtualLayout((4,), "f4")
        layout[:] = h5py.VirtualSource("/etc/passwd", "x", (4,))
        store[VARS].create_virtual_dataset("0", layout)

    return one_bn(folder, edit, _0=None)


@case(None)
def groups_in_a_cycle(folder):
    """A weights file whose groups are linked into each other: 2**64 paths."""
    path = folder / "model.weights.h5"
    with h5py.File(path, "w") as store:
        group = store.create_group("layers/a")
        group["b"] = group["c"] = group["d"] = store["layers"]
        for name in "0123":
            place = f"layers/batch_normalization/vars/{name}"
            store.create_dataset(place, data=np.ones(4, "f4"))
    return path


@case(None)
def optimizer_in_a_cycle(folder):
    path = folder / "model.h5"
    with h5py.File(path, "w") as store:
        store.attrs["model_config"] = json.dumps(ONE_BN)
        group = store.create_group("optimizer_weights")
        group["again"] = group
    return path


def legacy(folder, edit, config=ONE_BN):
    path = folder / "model.h5"
    with h5py.File(path, "w", libver="latest") as store:
        store.attrs["model_config"] = json.dumps(config)
        edit(store.create_group("model_weights"))
    return path


@case("may take")
def attribute_that_repeats_one_text(folder):
    """A thousand strings, all the same megabyte of the file."""

    def edit(group):
        made = group.create_group("bn")
        made.attrs.create(
            "weight_names", ["x" * (1 << 20)] + ["y"] * 2000, dtype=h5py.string_dtype()
        )

    return legacy(folder, edit)


@case("holds no text")
def attribute_of_references(folder):
    def edit(group):
        made = group.create_group("bn")
        made.attrs.create("weight_names", [group.ref] * 3, dtype=h5py.ref_dtype)

    return legacy(folder, edit)


@case(None)
def names_in_dense_storage(folder):
    def edit(group):
        made = group.create_group("bn")
        for i in range(100):
            made.attrs[f"a{i}"] = np.zeros(1000)
        made.attrs["weight_names"] = np.array([b"bn/moving_mean:0"])
        made.create_dataset("bn/moving_mean:0", data=np.ones(4, "f4"))

    return legacy(folder, edit)


@case(None)
def names_that_are_one_number(folder):
    def edit(group):
        group.create_group("bn").attrs["weight_names"] = 7

    return legacy(folder, edit)


@case("link to another place")
def link_on_the_way_to_a_group(folder):
    def edit(group):
        group["a"] = h5py.ExternalLink("/etc/passwd", "/")

    return legacy(folder, edit, sequential([source(), bn("a/b")]))


@case("comparisons")
def names_that_match_nothing(folder):
    count = 2_500

    def edit(group):
        names = np.array([f"a{i}/moving_mean:0".encode() for i in range(count)])
        group.create_group("inner").attrs["weight_names"] = names

    inner = sequential([source(), *(bn(f"b{i}") for i in range(count))], "inner")
    return legacy(folder, edit, sequential([source(), inner]))


@case(None)
def groups_that_bear_other_names(folder):
    def edit(store):
        for i in range(1_500):
            place = f"layers/batch_normalization{f'_{i}' if i else ''}/vars"
            store.create_group(place).attrs["name"] = "other"

    layers = [source(), *(bn(f"b{i}") for i in range(1_500))]
    return write_keras(folder, sequential(layers), edit=edit)
