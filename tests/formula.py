"""Recordings of a formula in whole numbers, the same on every machine and for every version of the simulator.

What was made from them by an earlier pedarr lies in tests/earlier_run."""
from pathlib import Path

import numpy as np
import wfdb

FS, SECONDS = 250, 30
CHANNELS = ['I', 'II', 'III', 'aVR', 'aVL', 'aVF', 'V1', 'V2', 'V3', 'V4', 'V5', 'V6',
            'ABL12', 'RVA12', 'CS12', 'CS34', 'CS56', 'CS78', 'CS90']
NAMES = ['x001', 'x002', 'x003', 'x004', 'x005', 'x006', 'x100', 'x101']
CYCLES = {'N': 180, 'AVNRT': 75, 'AVRT': 90}                   # samples from beat to beat
CHILDREN = 'subject_id,file_name,gender,age,diagnosis,ap_loacation,ecg_duration\n'
ADULTS = 'subject_id,file_name,gender,age,diagnosis,ecg_duration\n'


def beat_times(number: int) -> list[tuple[str, int]]:
    "(rhythm, sample) of each beat: ten seconds each of sinus rhythm and of two tachycardias."
    part = FS*SECONDS//3
    return [(rhythm, at) for i, rhythm in enumerate(CYCLES)
            for at in range(i*part + 30 + number, (i + 1)*part, CYCLES[rhythm])]


def noise(n: int, seed: int) -> np.ndarray:
    "`n` numbers from -64 to 63: bits that a multiplication has mixed."
    x = np.arange(n, dtype=np.uint64)*2654435761 + np.uint64(seed*40503)
    x = ((x ^ x >> np.uint64(15)) & np.uint64(2**32 - 1))*2246822519 & np.uint64(2**32 - 1)
    return (x >> np.uint64(25)).astype(np.int64) - 64


def samples(number: int) -> np.ndarray:
    "The signals [time, channel] of one recording, 2000 to the mV: triangles at the beats, and noise."
    t, shape = np.arange(FS*SECONDS), np.zeros(FS*SECONDS, np.int64)
    for rhythm, at in beat_times(number):
        shape += np.maximum(0, 8 - np.abs(t - at))*(250 if rhythm != 'AVRT' else -180)
        if rhythm == 'N': shape += np.maximum(0, 15 - np.abs(t - at + 35))*25
    signals = [shape*(k % 5 + 1)//4 for k in range(len(CHANNELS))]
    return np.stack([x + noise(len(t), 100*number + k) for k, x in enumerate(signals)], axis=1)


def write_formula_database(folder: Path) -> Path:
    "Eight recordings in the format of the Leipzig database."
    folder.mkdir(parents=True)
    k = len(CHANNELS)
    for number, name in enumerate(NAMES):
        wfdb.wrsamp(name, FS, ['mV']*k, CHANNELS, d_signal=samples(number), fmt=['24']*k, adc_gain=[2000]*k,
                    baseline=[0]*k, write_dir=str(folder), comments=['Simulated by pedarr: no patient'])
        rows, now = [], None
        for rhythm, at in beat_times(number):
            if rhythm != now: rows.append((at - 20, '+', f'({rhythm}'))
            rows.append((at, 'N', ''))
            now = rhythm
        at, symbols, notes = zip(*rows)
        wfdb.wrann(name, 'atr', np.array(at), list(symbols), aux_note=list(notes), write_dir=str(folder))
    (folder/'RECORDS').write_text('\n'.join(NAMES) + '\n')
    for file, head, of in ('children', CHILDREN, NAMES[:6]), ('adults', ADULTS, NAMES[6:]):
        place = ',' if file == 'children' else ''
        rows = [f'{n[1:]},{n},F,{8 + 5*i},AVNRT,{place}0:0:30.000\n' for i, n in enumerate(of)]
        (folder/f'{file}-subject-info.csv').write_text(head + ''.join(rows))
    return folder
