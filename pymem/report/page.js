"use strict";
(async () => {
  const read = (id) => JSON.parse(document.getElementById(id).textContent);
  const doc = read("figures");
  const roots = Object.fromEntries(doc.roots.map((root) => [root.id, "plot-" + root.attributes.name]));
  await Bokeh.embed.embed_items({ report: doc }, [{ docid: "report", roots, root_ids: Object.keys(roots) }]);
  const drawn = Bokeh.documents[0];

  // Canvas knows no style sheet: what is drawn in ink is told its colour.
  const inks = { light: ["#1c2330", "#5a6474", "#d8dde5"], dark: ["#e6e9ef", "#a3adbb", "#333b48"] };
  const paint = (theme) => {
    const [ink, faint, line] = inks[theme];
    document.documentElement.dataset.theme = theme;
    for (const model of drawn.all_models) {
      if (model.type.endsWith("Axis")) {
        model.setv({ axis_label_text_color: ink, major_label_text_color: ink, axis_line_color: faint,
                     major_tick_line_color: faint });
      } else if (model.type === "Grid") model.setv({ grid_line_color: line });
      else if (model.type === "Legend") model.setv({ label_text_color: ink });
      else if (model.type === "LabelSet") model.setv({ text_color: ink });
    }
    const button = document.getElementById("theme");
    button.textContent = theme === "dark" ? "Light" : "Dark";
    button.setAttribute("aria-label", "Change to " + (theme === "dark" ? "light" : "dark") + " colours");
  };
  const wish = matchMedia("(prefers-color-scheme: dark)");
  let chosen = null;
  const repaint = () => paint(chosen ?? (wish.matches ? "dark" : "light"));
  wish.addEventListener("change", repaint);
  document.getElementById("theme").addEventListener("click", () => {
    chosen = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
    repaint();
  });
  repaint();

  // The address map's slider: which picture is shown, and where its moment lies among the types.
  const slider = document.getElementById("moment");
  if (slider) {
    const texts = read("moments");
    const filter = drawn.get_model_by_name("map_moment");
    const line = drawn.get_model_by_name("moment");
    const move = () => {
      const i = Number(slider.value);
      filter.indices = [i];
      if (line) line.location = filter.tags[i] / line.tags[0];
      document.getElementById("moment-text").value = texts[i];
      slider.setAttribute("aria-valuetext", texts[i]);
    };
    slider.addEventListener("input", move);
    move();
  }
  document.documentElement.dataset.ready = "yes";
})();
