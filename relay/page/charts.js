// Small charts of the last minutes, as SVG.

const SVG = "http://www.w3.org/2000/svg";
const POINTS = 300; // one a second
const FEWEST = 60; // a chart that has just begun is as wide as a minute

/** The last values of some series, all of one length. */
export class History {
  constructor(...names) {
    this.series = new Map(names.map((name) => [name, []]));
  }

  add(values) {
    for (const [name, series] of this.series) {
      series.push(values[name] ?? null);
      if (series.length > POINTS) series.shift();
    }
  }

  of(name) {
    return this.series.get(name);
  }

  /** How far back a chart of it goes, in seconds. */
  get span() {
    const [first] = this.series.values();
    return Math.max(FEWEST, first.length);
  }
}

/** Lines over a history. The newest value is at the right. */
export class Chart {
  /** @param lines `[series, class]` each, the later drawn over the earlier. */
  constructor(history, lines, { height = 48, least = 1 } = {}) {
    this.history = history;
    this.height = height;
    this.least = least;
    this.root = document.createElementNS(SVG, "svg");
    this.root.setAttribute("preserveAspectRatio", "none");
    this.root.setAttribute("role", "img");
    this.root.classList.add("chart");
    this.lines = lines.map(([series, kind]) => {
      const path = document.createElementNS(SVG, "path");
      path.setAttribute("class", kind);
      path.setAttribute("vector-effect", "non-scaling-stroke");
      this.root.append(path);
      return [series, path];
    });
  }

  /** Draws it anew; returns the value at its upper edge. */
  draw(words) {
    const all = this.lines.flatMap(([series]) => this.history.of(series));
    const top = niceAbove(Math.max(this.least, ...all.filter((value) => value !== null)));
    this.root.setAttribute("viewBox", `0 0 ${this.history.span - 1} ${this.height}`);
    for (const [series, path] of this.lines) {
      path.setAttribute("d", this.line(this.history.of(series), top));
    }
    this.root.setAttribute("aria-label", words);
    return top;
  }

  line(values, top) {
    const start = this.history.span - values.length;
    let pen = "M";
    let path = "";
    values.forEach((value, index) => {
      if (value === null) {
        pen = "M";
        return;
      }
      const y = this.height - 1 - (value / top) * (this.height - 2);
      path += `${pen}${start + index} ${y.toFixed(1)}`;
      pen = "L";
    });
    return path;
  }
}

function niceAbove(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map((step) => step * power).find((step) => step >= value * 1.05)
    ?? 20 * power;
}
